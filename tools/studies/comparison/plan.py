"""What of the protocol is recorded, what is left, and what follows from it."""

import datetime
import functools
import math
import pathlib
import statistics
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from soka_tf.data.documents import ANY
from soka_tf.errors import UserError
from tools.studies.comparison import protocol as plans
from tools.studies.comparison import run_records as records
from tools.studies.comparison.protocol import FINAL, TUNE, Job, Protocol
from tools.studies.records import (
    FAILURE_RECORD,
    FAILURE_SHAPE,
    ROOMS_FILE,
    RUN_RECORD,
    commit,
    read_record,
)
from tools.studies.training import Runs, Training

# Before any cost is known: CPU seconds of a step, those of KD's first trial.
_STEP_SECONDS = 0.073
# CPU seconds beside the steps: to start, to trace, to measure on the rooms.
_BESIDE_SECONDS = 40.0
_RUN_SHAPE = {
    "cpu_seconds": (float, None),
    "seconds": float,
    "processor": str,
    "cores": (int, None),
    "versions": {str: str},
    "commit?": (str, None),
}


class Plan:
    """The jobs of a protocol and their records; nothing is trained here."""

    def __init__(
        self,
        protocol: Protocol,
        runs: Runs,
        folder: pathlib.Path,
        only_read: bool = False,
    ):
        """Reads no record yet.

        Args:
          protocol: of the comparison.
          runs: where runs are trained; their folders may be gone.
          folder: of the records.
          only_read: whether records of other bindings or teachers than the present
            ones are read: those that a page was written from stay readable.
        """
        self.protocol = protocol
        self.runs = runs
        self.folder = folder
        self.only_read = only_read
        self._records: Dict[Job, Dict[str, Any]] = {}
        self._identity = functools.lru_cache(None)(
            functools.partial(records.identity, runs)
        )

    # ------------------------------------------------------------------- jobs

    def jobs(self, portion: str) -> List[Job]:
        """The jobs of a portion, in their order; none before they can be known."""
        if portion == TUNE:
            return list(plans.tune_jobs(self.protocol))
        chosen = {m: trial for m, trial in self.chosen().items() if self.cost(m)}
        return list(plans.final_jobs(self.protocol, chosen))

    def check_costs(self) -> None:
        """Refuses costs that are not of one kind of machine: their ratios mean nothing.

        Raises:
          UserError: naming the machines.
        """
        found = [self.record(job) for job in self.jobs(TUNE)]
        kinds = {
            f"{r['cores']} cores of {r['processor']}, {sorted(r['versions'].items())}"
            for r in found
            if r and r["cpu_seconds"]
        }
        if len(kinds) > 1:
            raise UserError(
                f"{self.folder}: costs were measured on several machines: "
                f"{'; '.join(sorted(kinds))}. Remove {TUNE}-*.json of all but one, and "
                "run these trials on that one."
            )

    def left(self, portion: str) -> List[Job]:
        """The jobs of a portion that have no record, but those too late to be tuned."""
        opened = self.opened()
        return [
            job
            for job in self.jobs(portion)
            if not self.record(job)
            and (opened is None or job.method.name in opened["chosen"])
        ]

    def counts(self) -> Tuple[int, int]:
        """How many runs are recorded, and how many there are to be."""
        jobs = [job for portion in plans.PORTIONS for job in self.jobs(portion)]
        names = {job.name for job in jobs}
        if not self.jobs(FINAL):  # which trial does not change how many
            names = {job.name for job in plans.all_jobs(self.protocol)}
        return sum(bool(self.record(job)) for job in jobs), len(names)

    def steps(self, job: Job) -> int:
        """The steps of a job: as many as its budget pays for."""
        if job.portion == TUNE:
            return self.protocol.tuning_steps
        own = self.cost(job.method.name)
        return max(1, round(self.seconds_of_budget(job.budget) / own))

    def cost(self, method: str) -> Optional[float]:
        """CPU seconds of a step, the median of the trials; of students a task together.

        None where a trial is not recorded, or none was run without interruption.
        """
        by_task: Dict[Optional[str], List[float]] = {}
        for job in self.jobs(TUNE):
            if job.method.name == method:
                record = self.record(job)
                if record is None:
                    return None
                seconds = record["cpu_seconds"]
                by_task.setdefault(job.task, []).extend([seconds] if seconds else [])
        if not by_task or not all(by_task.values()):
            return None
        medians = map(statistics.median, by_task.values())
        return sum(medians) / self.protocol.tuning_steps

    def seconds_of_budget(self, budget: float) -> float:
        """CPU seconds of a budget, by what steps cost in the trials."""
        return self.protocol.steps * budget * self.cost(self.protocol.unit)

    def training(self, job: Job) -> Training:
        """What a job trains."""
        return plans.training_of(self.protocol, job, self.steps(job))

    def identity(self, job: Job) -> Mapping[str, Any]:
        """What a job's record says of it: read once, when it is first asked for."""
        return self._identity(self.training(job))

    def cpu_seconds(self, job: Job) -> float:
        """What a job is likely to take, all in all."""
        own, unit = self.cost(job.method.name), self.cost(self.protocol.unit)
        students = len(plans.parts(job.method))
        if job.portion == FINAL:
            steps, step = self.protocol.steps * job.budget, unit or _STEP_SECONDS
        else:
            steps, step = self.steps(job), own or _STEP_SECONDS
        return steps * step / students + _BESIDE_SECONDS

    # ---------------------------------------------------------------- records

    def path(self, job: Job) -> pathlib.Path:
        """Where a job's record is, or will be."""
        return self.folder / f"{job.name}.json"

    def record(self, job: Job) -> Optional[Dict[str, Any]]:
        """A job's record, None if there is none.

        Raises:
          UserError: if it is of another run, other teachers or another protocol.
        """
        if job not in self._records:
            path = self.path(job)
            versions = plans.versions_of(job.portion)
            content = records.read(path, records.RECORD_SHAPE, versions)
            if content is None:
                return None
            who = None if self.only_read else self.identity(job)
            rooms = self.protocol.rooms_of(job.portion).count
            records.check(path, content, job, self.steps(job), who, rooms)
            self._records[job] = content
        return self._records[job]

    def take(self, job: Job) -> Optional[str]:
        """Records a run that has ended in its folder.

        Returns:
          Why there is nothing to record; None if there is.
        """
        training = self.training(job)
        folder = self.runs.folder_of(training, job.seed)
        failure = read_record(folder / FAILURE_RECORD, FAILURE_SHAPE)
        run = read_record(folder / RUN_RECORD, _RUN_SHAPE)
        shape = records.RECORD_SHAPE["errors"][0]
        errors = read_record(folder / ROOMS_FILE, shape)
        if failure and records.NOT_FINITE in failure["failed"]:
            nothing = dict(cpu_seconds=None, seconds=None, processor="", cores=None)
            why = failure["failed"].split(".")[0] + "."
            made = {"versions": {}, "commit": commit()}
            found = {**nothing, **made, "failed": why, "errors": None}
        elif run and errors:
            kept = {name.rstrip("?"): run.get(name.rstrip("?")) for name in _RUN_SHAPE}
            found = {**kept, "failed": None, "errors": errors}
        else:
            return failure["failed"] if failure else "it has not ended"
        who = self.identity(job)
        content = records.record_of(job, self.steps(job), who, found)
        records.write(self.path(job), content)
        return None

    def raw_reference(self, job: Job) -> pathlib.Path:
        """Where a run leaves what teachers and median image are worth on its rooms."""
        kind = records.digest_of_rooms(self.identity(job), job)
        words = ["reference", *self._rooms_of(job.portion), job.task, kind]
        return self.runs.folder / ("-".join(filter(None, words)) + ".json")

    def take_reference(self, job: Job) -> None:
        """Records that, once."""
        path = self.reference_path(job.portion)
        found = read_record(self.raw_reference(job), {str: ANY})
        if found is None or path.exists() or job.task is not None:
            return
        who = self.identity(job)
        targets = {f"{task}.safetensors" for task in found["pixels"]}
        teachers = {n: of for n, of in who["teachers"].items() if n in targets}
        head = {"protocol": plans.VERSION, "teachers": teachers}
        records.write(path, {**head, **found})

    def reference_path(self, portion: str) -> pathlib.Path:
        """Where the record of teachers and median image is, on a portion's rooms."""
        return self.folder / f"reference-{self._rooms_of(portion)[0]}.json"

    def reference(self, portion: str) -> Dict[str, Any]:
        """The teachers' and the median image's sums on the rooms of a portion.

        Raises:
          UserError: if they are not there, or of other teachers.
        """
        path = self.reference_path(portion)
        versions = plans.versions_of(portion)
        found = records.read(path, records.REFERENCE_SHAPE, versions)
        if found is None:
            raise UserError(
                f"{path} is not there: teachers and median image are measured with a "
                "run. Remove the record of one of these rooms to train it again."
            )
        if self.only_read:
            return found
        (job, *_) = self.jobs(TUNE)
        present = self.identity(job)["teachers"]
        named = {n: of for n, of in present.items() if n in found["teachers"]}
        records.check_teachers(path, found, named)
        return found

    def _rooms_of(self, portion: str) -> Tuple[str]:
        return ("test" if portion == FINAL else "tune",)

    def refuse_strangers(self) -> None:
        """Refuses files among the records that are of no run.

        Raises:
          UserError: naming the first one.
        """
        known = {self.path(job) for job in plans.all_jobs(self.protocol)}
        known |= {self.reference_path(portion) for portion in (TUNE, FINAL)}
        known |= {self.folder / records.OPENED}
        for path in sorted(self.folder.glob("*.json")):
            if path not in known:
                raise UserError(
                    f"{path}: it is of no run that the protocol has now. Remove it, or "
                    "give another --records_dir."
                )

    # ---------------------------------------------------------------- choices

    def chosen(self) -> Dict[str, int]:
        """Method -> the trial of the least error on the tuning rooms.

        Empty until all trials are recorded; without methods of which none ended well.

        Raises:
          UserError: if another choice was made before the test rooms were opened.
        """
        opened = self.opened()
        jobs = self.jobs(TUNE)
        if not jobs or not all(map(self.record, jobs)) and opened is None:
            return {}
        choice = {}
        for method in self.protocol.methods:
            errors = [
                self.tuning_error(method.name, trial)
                for trial in range(len(self.protocol.trials))
            ]
            best = min(range(len(errors)), key=errors.__getitem__)
            if math.isfinite(errors[best]):
                choice[method.name] = best
        if opened is None:
            return choice
        for name, trial in opened["chosen"].items():
            complete = all(self.record(j) for j in jobs if j.method.name == name)
            if complete and choice.get(name) != trial:
                raise UserError(
                    f"{self.folder / records.OPENED} says that trial {trial} of {name} "
                    f"was chosen; its records choose {choice.get(name)}. Restore the "
                    "records that the choice was made by."
                )
        return opened["chosen"]

    def tuning_error(self, method: str, trial: int) -> float:
        """The first endpoint of a trial: mean log of rmse / teacher's."""
        found = [
            self.record(job)
            for job in self.jobs(TUNE)
            if (job.method.name, job.trial) == (method, trial)
        ]
        if not found or any(r is None or r["failed"] for r in found):
            return math.inf
        teacher = self.reference(TUNE)["teacher"]
        errors = {t: sums for r in found for t, sums in r["errors"].items()}
        logs = [
            0.5 * math.log(sum(errors[task][name]) / sum(teacher[task][name]))
            for task, name in plans.ENDPOINTS[0].parts
        ]
        return sum(logs) / len(logs)

    def opened(self) -> Optional[Mapping[str, Any]]:
        """When the test rooms were opened, with which choices; None if not yet.

        Raises:
          UserError: if what is compared has changed since.
        """
        path = self.folder / records.OPENED
        found = records.read(path, records.OPENED_SHAPE)
        if found and found["protocol_sha256"] != self.protocol.digest:
            raise UserError(
                f"{path}: methods, endpoints or tests are not those of when the test "
                "rooms were opened. Restore tools/studies/comparison of commit "
                f"{found['commit']}."
            )
        return found

    def open_test_rooms(self) -> None:
        """Writes down that they are opened.

        Raises:
          UserError: if trials are missing.
        """
        if self.opened() is not None:
            return
        left, chosen = self.left(TUNE), self.chosen()
        if left or not chosen:
            raise UserError(
                "--portion=final opens the test rooms, which waits until all choices "
                f"are made: {len(left)} runs of --portion=tune are not recorded yet. "
                "Run these first."
            )
        for name in chosen:
            if self.cost(name) is None:
                raise UserError(
                    f"{self.folder}: all trials of {name} were interrupted, so that "
                    f"its cost is not known. Remove {TUNE}-{name}-*.json and the runs "
                    "of these names in --model_dir to train them again."
                )
        now = datetime.datetime.now(datetime.timezone.utc)
        records.write(
            self.folder / records.OPENED,
            {
                "protocol": plans.VERSION,
                "protocol_sha256": self.protocol.digest,
                "opened": now.isoformat(timespec="seconds"),
                "commit": commit(),
                "chosen": chosen,
            },
        )


def hours(plan: Plan, jobs: Iterable[Job]) -> float:
    """CPU hours that jobs are likely to take."""
    return sum(map(plan.cpu_seconds, jobs)) / 3600


def batches(
    plan: Plan, jobs: Sequence[Job], most_seconds: float = 1800.0
) -> List[Tuple[Training, List[Job]]]:
    """Jobs of one training together, for one process each, but not too long ones."""
    found: List[Tuple[Training, List[Job]]] = []
    for job in jobs:
        training = plan.training(job)
        if found and found[-1][0] == training:
            taken = sum(map(plan.cpu_seconds, found[-1][1]))
            if taken + plan.cpu_seconds(job) <= most_seconds:
                found[-1][1].append(job)
                continue
        found.append((training, [job]))
    return found
