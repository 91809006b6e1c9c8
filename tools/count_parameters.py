r"""Counts the networks and prints the paper's parameter counts with their arithmetic.

Example (ten seconds; no file is read or written):

    python tools/count_parameters.py

The networks are built at full size. The output is the tables and sums of
docs/parameters.md, which says what they mean.
"""

from collections import Counter
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence

from absl import flags

from soka_tf import cli
from soka_tf.tasks import get_task

FLAGS = flags.FlagValues()

# Table 2 of the paper and of its supplement; Table 1 of the supplement adds normals.
_TASKS = ("depth", "edge2d", "sfnorm")
# A variable that Adam trains is three in a checkpoint: itself and two slots.
_COPIES = 3


class Row(NamedTuple):
    """One of the paper's counts, and the checkpoint that we take it for.

    Attributes:
      name: what the paper counts.
      paper: its number, in millions.
      tasks: how many of depth, 2D edges and normals.
      encoder: which one.
      encoders: how many of them.
      discriminators: how many.
      discriminator_statistics: whether their moving statistics count.
      amalgamates: whether W and C count.
    """

    name: str
    paper: str
    tasks: int
    encoder: str
    encoders: int
    discriminators: int
    discriminator_statistics: bool = True
    amalgamates: bool = False


_TEACHERS = Row("teachers of 2 tasks", "246.46", 2, "encoder-50", 2, 2)
_STUDENT = Row("student of 2 tasks, no W and C", "175.75", 2, "encoder-50", 1, 2)
_TEACHERS_OF_3 = Row("teachers of 3 tasks", "360.27", 3, "encoder-50", 3, 0)
_STUDENT_OF_3 = Row("student of 3 tasks; KD", "221.96", 3, "encoder-50", 1, 1)
ROWS = (
    _TEACHERS,
    _STUDENT,
    _STUDENT._replace(name="the same with W and C (a reading)", amalgamates=True),
    _STUDENT._replace(name="MTL of 2 tasks", paper="175.73"),
    _STUDENT._replace(
        name="MTL without discriminators' statistics",
        paper="175.73",
        discriminator_statistics=False,
    ),
    Row("KD 2-to-2", "177.74", 2, "encoder-26", 2, 0),
    _TEACHERS_OF_3,
    _STUDENT_OF_3,
    Row("KD 3-to-3", "266.61", 3, "encoder-26", 3, 0),
)


class Count(NamedTuple):
    """Scalars of a network: those of trainable kind, and moving statistics."""

    trained: int
    statistics: int

    @property
    def all(self) -> int:
        """Both."""
        return self.trained + self.statistics


def count_networks() -> Dict[str, Count]:
    """Builds every network at full size; returns name -> scalars."""
    from soka_tf.networks.decoder import Decoder
    from soka_tf.networks.discriminator import Discriminator
    from soka_tf.networks.encoder import ENCODER_26, ENCODER_50, Encoder

    counts = {}
    for name, units in (("encoder-50", ENCODER_50), ("encoder-26", ENCODER_26)):
        encoder = Encoder(units)
        counts[name] = _count(encoder.trunk)
        counts["compress1"] = _count(encoder.compress)
    for channels in sorted({get_task(task).channels for task in _TASKS}):
        counts[f"decoder C={channels}"] = _count(Decoder(channels))
        counts[f"discriminator C={channels}"] = _count(Discriminator(channels))
    return dict(sorted(counts.items()))


def checkpoint_terms(row: Row, counts: Mapping[str, Count]) -> Dict[str, int]:
    """What a training checkpoint holds, without W and C: words -> scalars."""
    channels = [get_task(task).channels for task in _TASKS[: row.tasks]]
    encoder, compress = counts[row.encoder], counts["compress1"]
    decoders = Counter(channels)
    judges = Counter(channels[: row.discriminators])
    trained = row.encoders * encoder.trained
    words = [f"{_times(row.encoders)}{encoder.trained:,}"]
    statistics = row.encoders * encoder.statistics
    for c, n in decoders.items():
        decoder = counts[f"decoder C={c}"]
        trained += n * decoder.trained
        words.append(f"{_times(n)}{decoder.trained:,}")
        statistics += n * decoder.statistics
    terms = {
        f"{_COPIES} x (encoder {words[0]} + decoder {' + '.join(words[1:])})": (
            _COPIES * trained
        ),
        f"moving statistics {statistics:,}": statistics,
        f"compress1 {_times(row.encoders)}{compress.all:,}": (
            row.encoders * compress.all
        ),
    }
    for c, n in judges.items():
        judge = counts[f"discriminator C={c}"]
        size = judge.all if row.discriminator_statistics else judge.trained
        terms[f"discriminator {_times(n)}{size:,}"] = n * size
    return terms


def inference_count(row: Row, counts: Mapping[str, Count]) -> int:
    """Scalars that a prediction needs: encoders and decoders, each once."""
    encoder = counts[row.encoder].all + counts["compress1"].all
    return row.encoders * encoder + sum(
        counts[f"decoder C={get_task(task).channels}"].all
        for task in _TASKS[: row.tasks]
    )


def amalgamation_count() -> int:
    """Scalars of W and C in the reading that fits the paper's count.

    One weight a channel, of two targets and an auxiliary teacher, in block 3 and at the
    encoder's output.
    """
    from soka_tf.soka.amalgamation import Amalgamation

    widths = _amalgamated_widths()
    of_teachers = {layer: [width] * 3 for layer, width in widths.items()}
    amalgamation = Amalgamation(
        of_teachers, widths, variant="literal", mixing="diagonal"
    )
    return _count(amalgamation).trained


def _amalgamated_widths() -> Dict[str, int]:
    """Layer -> channels of the full-size encoder there."""
    from soka_tf.networks.encoder import Encoder

    encoder = Encoder((1, 1, 1, 1))  # the widths are those of any number of units
    return {
        "block3": encoder.feature_layers["block3"].channels,
        "representation": encoder.representation_channels,
    }


def training_only_counts() -> Dict[str, int]:
    """Scalars that a run trains beside its student: bindings -> how many.

    Of two targets and an auxiliary teacher at full size, in both layers of the paper.
    """
    from soka_tf.soka.amalgamation import Amalgamation

    widths = _amalgamated_widths()
    of_teachers = {layer: [width] * 3 for layer, width in widths.items()}
    counts = {}
    for variant in ("reconstruction", "literal", "hints"):
        made = Amalgamation(of_teachers, widths, variant, transfer={"adapter": True})
        name = f"build_amalgamation.variant = '{variant}'"
        counts[name] = sum(v.shape.num_elements() for v in made.own_variables)
        adapters = sum(v.shape.num_elements() for v in made.adapter_variables)
    return {**counts, "transfer.adapter = True": adapters}


def report() -> List[str]:
    """Counts everything; returns blocks of Markdown."""
    counts = count_networks()
    table, sums = [], []
    for row in ROWS:
        terms = checkpoint_terms(row, counts)
        if row.amalgamates:
            scalars = amalgamation_count()
            terms[f"W and C {_COPIES} x {scalars:,}"] = _COPIES * scalars
        total = sum(terms.values())
        agrees = "yes" if _millions(total, 2) == row.paper else "no"
        inference = _millions(inference_count(row, counts))
        table.append((row.name, _millions(total), row.paper, agrees, inference))
        sums.append(f"- {row.name}: {' + '.join(terms)} = {total:,}")
    networks = [(name, f"{c.trained:,}", f"{c.all:,}") for name, c in counts.items()]
    return [
        _table(("network", "trainable", "with moving statistics"), networks),
        _table(("count, M", "ours", "paper", "agrees", "at inference"), table),
        "\n".join(sums),
        _compare_sizes(counts),
        _describe_gap(counts),
        _compare_backbones(),
        _table(
            ("binding", "scalars"),
            [(f"`{k}`", f"{n:,}") for k, n in training_only_counts().items()],
        ),
    ]


def _compare_sizes(counts: Mapping[str, Count]) -> str:
    rows = []
    for teachers, student in ((_TEACHERS, _STUDENT), (_TEACHERS_OF_3, _STUDENT_OF_3)):
        paper = float(student.paper) / float(teachers.paper)
        small, large = (inference_count(row, counts) for row in (student, teachers))
        rows.append(
            (
                f"{student.tasks}",
                f"{student.paper} / {teachers.paper} = {paper:.3f}",
                f"{_millions(small)} / {_millions(large)} = {small / large:.3f}",
            )
        )
    return _table(("tasks", "student / teachers: paper", "at inference"), rows)


def _compare_backbones() -> str:
    """Every encoder that `build_student.backbone` has a name for, with compress1."""
    from soka_tf.networks.applications import APPLICATIONS, Application
    from soka_tf.networks.encoder import Encoder
    from soka_tf.networks.multiply_adds import total_multiply_adds

    networks = {"taskonomy": Encoder(), **{n: Application(n) for n in APPLICATIONS}}
    rows = []
    for name, network in networks.items():
        count = _count(network)
        billions = total_multiply_adds(network, (256, 256, 3)) / 1e9
        rows.append((name, f"{count.trained:,}", f"{count.all:,}", f"{billions:.2f}"))
    head = ("backbone", "trainable", "with moving statistics", "G multiply-adds")
    return _table(head, rows)


def _describe_gap(counts: Mapping[str, Count]) -> str:
    """What the student of two tasks lacks of the paper's number, and candidates."""
    student = sum(checkpoint_terms(_STUDENT, counts).values())
    gap = round(float(_STUDENT.paper) * 1e6) - student
    amalgamation = _COPIES * amalgamation_count()
    twice = _STUDENT.tasks * counts["decoder C=1"].statistics
    return (
        f"The student's gap is {gap - 5000:,} to {gap + 4999:,} scalars. W and C of "
        f"one weight a channel, with\ntheir slots, are {amalgamation:,}; the decoders' "
        f"moving statistics, counted twice, {twice:,}."
    )


def _count(network: Any) -> Count:
    trained, statistics = (
        sum(variable.shape.num_elements() for variable in variables)
        for variables in (network.trainable_weights, network.non_trainable_weights)
    )
    return Count(trained, statistics)


def _times(n: int) -> str:
    return f"{n} x " if n > 1 else ""


def _millions(scalars: int, digits: int = 3) -> str:
    return f"{scalars / 1e6:.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        f"| {' | '.join(cell.ljust(w) for cell, w in zip(line, widths))} |"
        for line in lines
    )


def main() -> None:
    """Prints the report."""
    print("\n\n".join(report()))


if __name__ == "__main__":
    cli.run(main, FLAGS)
