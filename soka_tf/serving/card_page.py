"""A model card as Markdown."""

from typing import Any, List, Mapping, Optional

from tabulate import tabulate

from soka_tf.errors import counted

_SHORT_SHA = 16


def format_card(card: Mapping[str, Any]) -> str:
    """Returns the text of model_card.md, of the content of model_card.json."""
    parts = [
        "# Model card",
        _summary(card),
        "## Tasks",
        _tasks(card),
        "## Teachers",
        _teachers(card),
        "## Images",
        _images(card),
        "## How good it is",
        _metrics(card["metrics"]),
        "## Limits",
        "\n".join(f"- {_plain(sentence)}" for sentence in card["limits"]),
        "## Use it",
        _use(card),
        "## Files",
        _files(card),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(card: Mapping[str, Any]) -> str:
    student, tasks = card["student"], card["tasks"]
    titles = ", ".join(_plain(task["title"]) for task in tasks.values())
    after = (
        f", after {counted(student['step'], 'step')}"
        if student["step"] is not None
        else ""
    )
    formats = "; ".join(f"{name} in {how}" for name, how in card["formats"].items())
    return (
        f"One network for {titles}: a shared encoder and a decoder a task, "
        f"{student['parameters']:,} parameters{after}. Formats: {formats}."
    )


def _tasks(card: Mapping[str, Any]) -> str:
    rows = [
        [
            f"`{name}`",
            _plain(task["title"]),
            task["channels"],
            _plain(task["unit"] or "-"),
            f"{task['range'][0]:g} to {task['range'][1]:g}",
            _plain(task["file"]),
        ]
        for name, task in card["tasks"].items()
    ]
    text = _table(rows, ["task", "title", "channels", "unit", "range", "file"])
    for name, task in card["tasks"].items():
        if "classes" in task:
            classes = ", ".join(
                f"{index} {_plain(one)}" for index, one in enumerate(task["classes"])
            )
            text += f"\n\nClasses of `{name}`: {classes}."
    return text


def _teachers(card: Mapping[str, Any]) -> str:
    if card["teachers"] is None:
        return "Not known to this card."
    rows = [
        [
            f"`{one['task']}`",
            one["role"],
            _plain(one["file"]) + (", of soka_tf" if one["shipped"] else ""),
            _plain(one["license"] or "not given"),
            f"{one['parameters']:,}",
            _hash(one),
        ]
        for one in card["teachers"]
    ]
    return _table(
        rows, ["task", "role", "file", "licence", "parameters", "sha256 or fingerprint"]
    )


def _hash(teacher: Mapping[str, Any]) -> str:
    return f"`{(teacher['sha256'] or teacher['fingerprint'] or '')[:_SHORT_SHA]}`"


def _images(card: Mapping[str, Any]) -> str:
    images = card["images"]
    if images is None:
        return "Not known to this card."
    labels = {
        "teachers": "without labels",
        "labels": "with their labels",
    }.get(card["supervision"], "")
    trained = f"Trained on {counted(images['train'], 'image')} {labels}"
    source, held_back = _plain(images["source"]), f"{images['validation']:,}"
    if "validation_source" in images:
        other = _plain(images["validation_source"])
        return f"{trained}: {source}. Held back to measure on: {held_back}, {other}."
    return f"{trained}, {held_back} held back to measure on: {source}."


def _metrics(metrics: Optional[Mapping[str, Any]]) -> str:
    if metrics is None:
        return "Not measured."
    names: List[str] = []
    for rows in metrics["tasks"].values():
        for values in rows.values():
            names += [name for name in values or () if name not in names]
    table = [
        [f"`{task}`", who.replace("_", " "), *(_number(values.get(n)) for n in names)]
        for task, rows in metrics["tasks"].items()
        for who, values in rows.items()
        if values
    ]
    return (
        f"On {_plain(metrics['on'])}; errors in the task's unit "
        "(definitions: docs/metrics.md of soka_tf).\n\n"
        + _table(table, ["task", "", *names])
    )


def _use(card: Mapping[str, Any]) -> str:
    if "SavedModel" not in card["formats"]:
        size = card["student"]["image_size"]
        return (
            f"The files take uint8 images [batch, {size}, {size}, 3] named `images` "
            "and answer float32 maps in the units above, by task."
        )
    return (
        "    python -m soka_tf.predict --saved_model=THIS_FOLDER \\\n"
        "        --images=path/to/photos --out_dir=runs/maps\n"
        "    python -m soka_tf.serve --saved_model=THIS_FOLDER\n\n"
        "or, without soka_tf:\n\n"
        "    import tensorflow as tf\n\n"
        '    student = tf.saved_model.load("THIS_FOLDER")\n'
        '    maps = student.signatures["serving_default"](\n'
        "        images=tf.zeros([1, 480, 640, 3], tf.uint8)\n"
        "    )"
    )


def _files(card: Mapping[str, Any]) -> str:
    rows = [
        [f"`{name}`", f"{file['bytes']:,}", f"`{file['sha256']}`"]
        for name, file in card["files"].items()
    ]
    versions = ", ".join(f"{name} {one}" for name, one in card["versions"].items())
    return f"{_table(rows, ['file', 'bytes', 'sha256'])}\n\nWritten by {versions}."


def _table(rows: List[List[Any]], columns: List[str]) -> str:
    return tabulate(rows, columns, tablefmt="github", disable_numparse=True)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "-"


def _plain(text: str) -> str:
    """Text of others as text of Markdown: no markup, no column of a table, one line."""
    escaped = "".join(f"\\{c}" if c in "\\`*[]<>|#!&" else c for c in str(text))
    return " ".join(escaped.split())
