"""The training loop, read from top to bottom. It knows no task."""

import contextlib
import logging
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import UInt8
from ml_collections import ConfigDict

from fsvfm_jax.config.resolve import to_json
from fsvfm_jax.data.pipeline import (
    Batches,
    Element,
    advance,
    make_iterator,
    read_faces,
    sample_indices,
)
from fsvfm_jax.data.sources import FaceSet, Source
from fsvfm_jax.data.stats import (
    STATS_FILE,
    Stats,
    compute_stats,
    forget_stats_of_other_data,
    known_stats,
    save_stats,
)
from fsvfm_jax.devices import distributed, sharding
from fsvfm_jax.devices.compilation import compile_for_devices, fresh_state, place, state_template
from fsvfm_jax.errors import DataError, Preempted
from fsvfm_jax.host.pictures import titled_grid
from fsvfm_jax.host.signals import released_at_once
from fsvfm_jax.host.storage import write_text
from fsvfm_jax.optim import Schedule, make_schedule
from fsvfm_jax.run import integrity, tracking
from fsvfm_jax.run.checkpoint import Checkpoints, Restored
from fsvfm_jax.run.failed_start import CHECKPOINTS, CONFIG_FILE, PARAMETERS_FILE, Start
from fsvfm_jax.run.faults import fault, poison
from fsvfm_jax.run.fingerprint import check_fingerprint, make_fingerprint
from fsvfm_jax.run.lock import RunLock
from fsvfm_jax.run.origin import save_origin
from fsvfm_jax.run.preemption import Preemption, StopWaiting
from fsvfm_jax.run.rewind import rewind
from fsvfm_jax.run.skipped_steps import SkippedSteps
from fsvfm_jax.run.watchdog import Watchdog
from fsvfm_jax.train_state import Job, Metrics, Picture, StepValues, Task, TrainState

logger = logging.getLogger(__name__)

PICTURE_ROWS = 8
PICTURE_SCALE = 3


class Unreported(NamedTuple):
    """A step whose numbers are not read yet, since the device may still be working on it."""

    step: int
    metrics: Metrics
    waited: float  # seconds, for its batch
    describe: Callable[[], dict[str, Any]]  # its batch


def train(
    config: ConfigDict,
    workdir: epath.Path,
    *,
    job: Job,
    check_only: bool = False,
) -> None:
    """Trains from the newest checkpoint of `workdir`, or from the start, to the last step.

    Args:
        config: The resolved config.
        workdir: Where everything is written; nothing is, with `check_only`.
        job: What is trained, of `jobs.JOBS`.
        check_only: Stop before the first step: everything is read, planned and compiled.

    Raises:
        UserError: Of its kinds, each with one sentence.
    """
    # ── Mesh ──────────────────────────────────────────────────────────────────────────────────
    mesh, config = place(config)
    process = jax.process_index()
    fault("start", 0, process=process)

    # ── Data ──────────────────────────────────────────────────────────────────────────────────
    _check_weights_exist(config, workdir)
    source = job.open_source(config)
    open_validate = job.open_validation(config, source=source, mesh=mesh)
    if check_only:
        _check(config, mesh, source, workdir, job)
        return
    # Where one process has no data, none makes the workdir.
    multihost_utils.sync_global_devices("the data are open")
    start = Start(workdir, active=process == 0)
    with contextlib.ExitStack() as stack:
        stack.enter_context(start.folders())
        distributed.share_workdir(workdir)
        lock = RunLock(workdir)
        distributed.on_first_process(
            lambda: stack.enter_context(released_at_once(lock)),
            refusal=f"{workdir} cannot be locked",
        )
        stack.enter_context(start.files())
        stats, schedule = _plan(config, source, workdir, job, compute_stats=True)
        preemption = stack.enter_context(Preemption())
        watchdog = stack.enter_context(Watchdog())
        watchdog.beat("the start (config.watchdog.start_seconds)", config.watchdog.start_seconds)

        # ── State: shapes first, so that no array is ever made in the wrong place ──────────────
        element, task = job.element(config, stats=stats), job.make_task(config, stats=stats)
        template = _describe_state(task, mesh)

        # ── Restore, before the long compilation: what does not fit is refused at once ────────
        fault("restore", 0, process=process)
        checkpoints = stack.enter_context(
            Checkpoints(
                workdir / CHECKPOINTS,
                keep=config.checkpoint.keep,
                keep_every=config.checkpoint.keep_every,
                keep_best=config.checkpoint.keep_best,
                watchdog=watchdog,
                save_seconds=config.watchdog.save_seconds,
            )
        )
        rewind(workdir, checkpoints, step=config.resume.step, skip_ranges=config.data.skip_ranges)
        state, samples_seen = checkpoints.restore_newest_valid(template) or Restored(
            _first_state(config, task, template, workdir, job), samples_seen=0
        )
        start_step = int(state.step)
        check_fingerprint(
            workdir,
            make_fingerprint(
                config,
                dataset=source.fingerprint(),
                images=len(source),
                stats=stats,
                of_task=job.fingerprint(config),
            ),
            step=start_step,
            accept_changes=config.resume.accept_changes,
        )
        if start_step:
            logger.info("resumed at step %d of %d", start_step, schedule.total_steps)
        if start_step >= schedule.total_steps:
            logger.info("nothing to do: %s is at its last step", workdir)
            return

        # ── Compile ───────────────────────────────────────────────────────────────────────────
        fault("compile", 0, process=process)
        train_step = compile_for_devices(task, mesh, config).program
        faces = _picture_faces(config, source, element)
        draw = jax.jit(task.draw, out_shardings=sharding.replicated(mesh))
        draw = draw.lower(template, faces).compile()
        validate = open_validate and open_validate(stats)

        # ── Loop ──────────────────────────────────────────────────────────────────────────────
        texts = {
            CONFIG_FILE: to_json(config),
            PARAMETERS_FILE: tracking.parameter_table(template.params) + "\n",
        }
        distributed.on_first_process(
            lambda: [write_text(workdir / name, text) for name, text in texts.items()],
            refusal=f"{workdir} cannot be written",
        )
        logger.info(
            "see %s: %s (all fields), %s (all arrays), metrics.jsonl, images/, tensorboard/",
            *(workdir, CONFIG_FILE, PARAMETERS_FILE),
        )
        skipped = SkippedSteps(workdir if process == 0 else None, limit=config.max_skipped_steps)
        tracker = stack.enter_context(
            tracking.Tracker(
                workdir,
                start_step=start_step,
                total_steps=schedule.total_steps,
                steps_per_epoch=schedule.steps_per_epoch,
                images_per_step=config.batch_size,
                log_every=config.tracking.log_every,
                active=process == 0,
            )
        )
        batches = open_stream(config, source, element, start_sample=samples_seen)
        stack.enter_context(contextlib.closing(batches))
        unreported: list[Unreported] = []
        losses: list[float] = []  # since the last checkpoint
        saved_step = start_step
        every = config.checkpoint.every or max(1, round(schedule.steps_per_epoch))

        def report() -> None:
            while unreported:
                losses.append(
                    _report(unreported.pop(), tracker, schedule, skipped, replaced=batches.replaced)
                )

        def validation_loss(step: int) -> float:
            limits = config.watchdog
            # The last step is validated whatever comes: no later start would do it.
            is_last = step == schedule.total_steps

            def go_on() -> None:
                watchdog.beat(
                    "a batch of the validation (config.watchdog.step_seconds)", limits.step_seconds
                )
                fault("validation", step, process=process)
                if not is_last:
                    preemption.check()

            watchdog.beat(
                "the validation's first batch (config.watchdog.start_seconds)", limits.start_seconds
            )
            try:
                with contextlib.nullcontext() if is_last else preemption.waiting():
                    found = validate(state.params, go_on)
            except StopWaiting:
                return math.nan
            finally:
                watchdog.rest()
            tracker.validation(step, found)
            return found["val_loss"]

        def save(step: int, *, scored: bool = True) -> None:
            nonlocal saved_step
            # Nothing is saved before its step is known to be finite; and what was said until then
            # is stored first: a run that is killed leaves no gap.
            report()
            tracker.sync()
            # The few steps before a stop make no score to compare with others'.
            score = tracking.mean_of_finite(losses) if scored else math.nan
            losses.clear()
            watchdog.rest()
            if validate is not None and scored:
                score = validation_loss(step)
            # It may wait for the save before it, which has a limit of its own.
            checkpoints.save(state, step=step, samples_seen=samples_seen, score=score)
            saved_step = step

        def stop(step: int) -> NoReturn:
            if step == start_step:
                raise Preempted("stopped before the first step: nothing new was saved")
            if step > saved_step:
                save(step, scored=False)
            watchdog.rest()
            checkpoints.wait()
            raise Preempted(
                f"stopped at step {step} and saved; the same command with --workdir={workdir} goes"
                " on"
            )

        preemption.begin_steps()
        if preemption.requested():
            stop(start_step)
        for step in range(start_step + 1, schedule.total_steps + 1):
            began = time.monotonic()
            try:
                with preemption.waiting():
                    fault("data", step, process=process)
                    rows = next(batches)
            except StopWaiting:
                stop(step - 1)
            waited = time.monotonic() - began
            values = StepValues(
                learning_rate=np.float32(schedule.learning_rate(step - 1)),
                teacher_rate=np.float32(schedule.teacher_rate(step - 1)),
                fault=np.float32(poison(step, process=process)),
            )
            state, metrics = train_step(state, sharding.put_batch(rows, mesh), values)
            if step == start_step + 1:
                start.is_over()
            fault("step", step, process=process)
            # The device works on this step while the numbers of the one before are read.
            report()
            describe = partial(_describe_batch, config, source, first_sample=samples_seen)
            unreported.append(Unreported(step, metrics, waited, describe))
            samples_seen = advance(
                samples_seen, config.batch_size, skip_ranges=config.data.skip_ranges
            )
            checkpoints.check()
            if process == 0:
                lock.check()

            last = step == schedule.total_steps
            if last or step % every == 0:
                save(step)
            if preemption.requested() and not last:
                stop(step)
            watchdog.beat(
                f"step {step + 1} (config.watchdog.step_seconds)", config.watchdog.step_seconds
            )
            if last or step % config.tracking.picture_every == 0:
                report()
                fault("picture", step, process=process)
                columns = jax.device_get(draw(state, faces))
                if process == 0:
                    picture = _titled(task.picture, columns, step=step)
                    tracker.images(step, task.picture.name, picture)
        watchdog.rest()

    # ── Finish: the last checkpoint counts once `checkpoints` is closed ────────────────────────
    logger.info("done: step %d of %d, in %s", int(state.step), schedule.total_steps, workdir)


def _check(
    config: ConfigDict,
    mesh: Mesh,
    source: FaceSet,
    workdir: epath.Path,
    job: Job,
) -> None:
    """All up to the first step: plan, compilation, some faces; nothing is trained or written."""
    stats, _ = _plan(config, source, workdir, job, compute_stats=False)
    task = job.make_task(config, stats=stats)
    _describe_state(task, mesh)
    compile_for_devices(task, mesh, config)
    faces = _picture_faces(config, source, job.element(config, stats=stats))
    logger.info(
        "check: compiled the step for batches of %d, read %d of %d faces; nothing was trained or"
        " written",
        *(config.batch_size, len(next(iter(faces.values()))), len(source)),
    )


def _check_weights_exist(config: ConfigDict, workdir: epath.Path) -> None:
    """Raises DataError where a run that has not started yet has no weights to start from."""
    path = config.init.params
    if path and not epath.Path(path).exists() and not (workdir / CHECKPOINTS).exists():
        raise DataError(f"config.init.params = {path!r} does not exist: give another path")


def _find_stats(
    config: ConfigDict, source: FaceSet, workdir: epath.Path, job: Job, *, compute: bool
) -> Stats:
    """Mean and std from the config, a file, an earlier start, the weights, or the set itself."""
    dataset = source.fingerprint()
    if compute and jax.process_index() == 0 and not integrity.steps(workdir / CHECKPOINTS):
        forget_stats_of_other_data(workdir, dataset)
    stats = known_stats(config.data, workdir)
    found = stats or job.starting_stats(config) or source.stats()
    if compute:
        # Stored in any case: whoever uses the weights needs them too.
        if stats is None and jax.process_index() == 0:
            replace = config.data.skip_corrupt > 0
            computed = found or compute_stats(source, replace=replace)
            save_stats(workdir / STATS_FILE, computed, dataset=dataset)
        # By all, whatever each has found: one may have looked after the first has stored them.
        multihost_utils.sync_global_devices("mean and std are stored")
        found = known_stats(config.data, workdir)
    if found is None:
        logger.info("mean and std will be computed over the set when training starts")
        return Stats((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    mean, std = (" ".join(f"{x:.4f}" for x in of_three) for of_three in found)
    logger.info("mean %s  std %s", mean, std)
    return found


def _plan(
    config: ConfigDict, source: FaceSet, workdir: epath.Path, job: Job, *, compute_stats: bool
) -> tuple[Stats, Schedule]:
    """What the set's size and pixels decide, said in one line each."""
    stats = _find_stats(config, source, workdir, job, compute=compute_stats)
    schedule = make_schedule(config, len(source))
    by_steps = config.get("total_steps") is not None
    logger.info(
        "plan: %d samples, %g epochs of %.4g steps = %d steps; learning rate to %g in %g epochs,"
        " schedule of %g epochs",
        len(source),
        schedule.total_steps / schedule.steps_per_epoch if by_steps else config.epochs,
        schedule.steps_per_epoch,
        schedule.total_steps,
        schedule.peak_learning_rate,
        schedule.warmup_epochs,
        schedule.schedule_epochs,
    )
    return stats, schedule


def _describe_state(task: Task, mesh: Mesh) -> TrainState:
    """The state's template; the size of its network is logged."""
    template = state_template(task, mesh)
    arrays = jax.tree.leaves(template.params)
    trained = sum(x.size for x in jax.tree.leaves(task.trained(template.params)))
    logger.info(
        "model: %s trainable parameters of %s, in %d arrays",
        *(f"{trained:,}", f"{sum(x.size for x in arrays):,}", len(arrays)),
    )
    return template


def _first_state(
    config: ConfigDict, task: Task, template: TrainState, workdir: epath.Path, job: Job
) -> TrainState:
    """The state at step 0, drawn, or with weights from elsewhere, whose origin is noted."""
    state = fresh_state(task, template, seed=config.seed)
    if not config.init.params:
        return state
    state, origin = job.load_weights(state, config)
    if jax.process_index() == 0:
        save_origin(workdir, origin)
    return state


def open_stream(
    config: ConfigDict, source: Source, element: Element, *, start_sample: int = 0
) -> Batches:
    """This process's rows of the endless stream of batches, to be closed in the end."""
    return make_iterator(
        source,
        element=element,
        global_batch_size=config.batch_size,
        seed=config.seed,
        start_sample=start_sample,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        weights=config.data.weights,
        skip_ranges=config.data.skip_ranges,
        skip_corrupt=config.data.skip_corrupt,
        num_workers=config.data.num_workers,
    )


def _picture_faces(config: ConfigDict, source: Source, element: Element) -> dict[str, np.ndarray]:
    """Some faces, evenly spaced over the set, the same for every picture of a run."""
    count = min(PICTURE_ROWS, len(source))
    chosen = [number * len(source) // count for number in range(count)]
    faces, _ = read_faces(source, chosen, replace=config.data.skip_corrupt > 0)
    elements = [element(face, (config.seed, place)) for place, face in enumerate(faces)]
    return {name: np.stack([element[name] for element in elements]) for name in elements[0]}


def _titled(
    picture: Picture, columns: UInt8[np.ndarray, "columns rows H W 3"], *, step: int
) -> UInt8[np.ndarray, "height width 3"]:
    """The columns, larger, under their titles and what a viewer must know."""
    return titled_grid(
        dict(zip(picture.columns, columns, strict=True)),
        caption=f"{picture.name.capitalize()} at step {step}. {picture.note}",
        scale=PICTURE_SCALE,
    )


def _describe_batch(config: ConfigDict, source: FaceSet, *, first_sample: int) -> dict[str, Any]:
    """Where in the stream a batch begins, and the faces in it."""
    indices = sample_indices(
        source,
        seed=config.seed,
        start=first_sample,
        count=config.batch_size,
        skip_ranges=config.data.skip_ranges,
        weights=config.data.weights,
    )
    return {"first_sample": first_sample, "faces": [source.name(index) for index in indices]}


def _report(
    unreported: Unreported,
    tracker: tracking.Tracker,
    schedule: Schedule,
    skipped: SkippedSteps,
    *,
    replaced: int,
) -> float:
    """Hands one step's numbers to the tracker, unless they say that the run must end.

    Returns:
        Its loss.
    """
    step, metrics, waited, describe = unreported
    numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
    numbers = {"loss": numbers.pop("loss"), **numbers}  # shown first
    skipped.take(step, numbers, describe=describe)
    numbers["lr"] = schedule.learning_rate(step - 1)
    if schedule.teacher_momentum is not None:
        numbers["teacher_momentum"] = 1 - schedule.teacher_rate(step - 1)
    numbers["replaced_samples"] = float(replaced)
    tracker.step(step, numbers, waited=waited)
    return numbers["loss"]
