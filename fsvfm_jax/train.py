"""The training loop, which is the same for all tasks."""

import contextlib
import logging
from collections.abc import Callable
from functools import partial

import jax
from etils import epath
from jax.profiler import StepTraceAnnotation
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fsvfm_jax.data.pipeline import Batches, Element, advance, make_iterator
from fsvfm_jax.data.sources import FaceSet, Source
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.devices import sharding
from fsvfm_jax.devices.compilation import compile_for_devices, fresh_state, place, state_template
from fsvfm_jax.devices.memory import SMALLER_STEP, enough_memory
from fsvfm_jax.errors import DataError
from fsvfm_jax.learners import make_learner
from fsvfm_jax.optim import Schedule, make_schedule
from fsvfm_jax.run.checkpoint import Restored
from fsvfm_jax.run.descriptions import describe_run, warn_of_other_weights
from fsvfm_jax.run.failed_start import CHECKPOINTS
from fsvfm_jax.run.faults import fault
from fsvfm_jax.run.fingerprint import check_fingerprint, make_fingerprint
from fsvfm_jax.run.guard import Guard
from fsvfm_jax.run.origin import save_origin
from fsvfm_jax.run.pictures import Pictures, picture_faces
from fsvfm_jax.run.reports import open_reports
from fsvfm_jax.run.rewind import rewind
from fsvfm_jax.run.saver import Saver, open_checkpoints
from fsvfm_jax.run.start_stats import find_stats
from fsvfm_jax.run.tracking import open_tracker
from fsvfm_jax.run.wandb_run import check_trackers, open_others
from fsvfm_jax.tasks import Task
from fsvfm_jax.train_state import Learner, Probe, TrainState, Validate
from fsvfm_jax.tuning import count

logger = logging.getLogger(__name__)


@enough_memory(f"the devices' memory ran out: {SMALLER_STEP}")
def train(config: ConfigDict, workdir: epath.Path, *, task: Task, check_only: bool = False) -> None:
    """Trains from the newest checkpoint of `workdir`, or from the start, to the last step.

    Args:
        config: The resolved config.
        workdir: The folder or bucket where everything is written.
        task: One of `tasks.TASKS`.
        check_only: Whether only to open the data, plan and compile, without training or writing.

    Raises:
        UserError: The config, the data or the workdir cannot be used. The message names the cause.
    """
    # ── Devices and data ──────────────────────────────────────────────────────────────────────
    mesh, config = place(task.with_options(config, workdir))
    source, open_validate, open_probe = _open_data(config, workdir, task, mesh)
    if check_only:
        return _check(config, mesh, source, workdir, task, open_probe)
    with contextlib.ExitStack() as stack:
        guard = stack.enter_context(Guard(workdir, config.watchdog))
        stats, schedule = _plan(config, source, workdir, task, compute_stats=True)
        guard.limit_start()

        # ── State: the shapes are needed to make each array on its own device ──────────────────
        element, learner = task.element(config, stats=stats), make_learner(config, stats=stats)
        template = _state_template(learner, mesh)

        # ── Restore before the long compilation, to refuse a wrong checkpoint early ───────────
        guard.fault("restore", 0)
        checkpoints = stack.enter_context(open_checkpoints(config, workdir, guard))
        skip_ranges = config.data.skip_ranges
        rewind(workdir, checkpoints, step=config.resume.step, skip_ranges=skip_ranges)
        state, samples_seen = checkpoints.restore_newest_valid(template) or Restored(
            _first_state(config, learner, template, workdir, task), samples_seen=0
        )
        start_step, total_steps = int(state.step), schedule.total_steps
        _check_stream(config, source, stats, workdir, task, step=start_step)
        if _is_done(workdir, start_step, total_steps):
            return

        # ── Compile ───────────────────────────────────────────────────────────────────────────
        others = stack.enter_context(open_others(config, workdir))
        guard.fault("compile", 0)
        compiled = compile_for_devices(learner, mesh, config)
        pictures = Pictures(learner, template, picture_faces(config, source, element), mesh)
        validate = open_validate and open_validate(stats)
        probe = open_probe and open_probe(learner, template)

        # ── Loop ──────────────────────────────────────────────────────────────────────────────
        describe_run(config, learner, template, compiled, workdir)
        tracker = stack.enter_context(open_tracker(config, schedule, workdir, start_step, others))
        batches = open_stream(config, source, element, start_sample=samples_seen)
        stack.enter_context(contextlib.closing(batches))
        reports = open_reports(config, source, workdir, tracker, schedule, batches)
        every = config.checkpoint.every or max(1, round(schedule.steps_per_epoch))
        saver = Saver(checkpoints, reports, guard, validate, start_step, total_steps, every)
        guard.begin_steps()
        for step in range(start_step + 1, total_steps + 1):
            if (rows := guard.next(batches, step)) is None:
                break
            batch = sharding.put_batch(rows, mesh)
            values = sharding.replicate(guard.values(schedule, step), mesh)
            with jax.transfer_guard("disallow"), StepTraceAnnotation("train", step_num=step):
                state, metrics = compiled.program(state, batch, values)
            guard.after_step(step)
            # While the device computes this step, the metrics of the previous step are read.
            reports.put(step, metrics, waited=guard.waited, first_sample=samples_seen)
            if probe and (step == total_steps or step % config.probe.every == 0):
                reports.put_probe(probe(state, step))
            samples_seen = advance(samples_seen, config.batch_size, skip_ranges=skip_ranges)
            saver.check()
            saver.after(step, state, samples_seen)
            if guard.stop_requested() and step < total_steps:
                break
            guard.limit_step(step + 1)
            if step == total_steps or step % config.tracking.picture_every == 0:
                pictures.write(step, state, reports)
        saver.finish(state, samples_seen)

    # ── Finish: closing `checkpoints` has completed the last checkpoint ────────────────────────
    logger.info("done: step %d of %d, in %s", int(state.step), total_steps, workdir)


def _check(
    config: ConfigDict,
    mesh: Mesh,
    source: FaceSet,
    workdir: epath.Path,
    task: Task,
    open_probe: Callable[..., Probe] | None,
) -> None:
    """Plans, compiles the step and the probe, and reads some faces. Trains and writes nothing."""
    stats, _ = _plan(config, source, workdir, task, compute_stats=False)
    learner = make_learner(config, stats=stats)
    template = _state_template(learner, mesh)
    compile_for_devices(learner, mesh, config)
    if open_probe is not None:
        open_probe(learner, template)
    faces = picture_faces(config, source, task.element(config, stats=stats))
    counts = (config.batch_size, len(next(iter(faces.values()))), len(source))
    text = "check: compiled the step for batches of %d, read %d of %d faces; %s"
    logger.info(text, *counts, "nothing was trained or written")


def _open_data(
    config: ConfigDict, workdir: epath.Path, task: Task, mesh: Mesh
) -> tuple[FaceSet, Callable[[Stats], Validate] | None, Callable[..., Probe] | None]:
    """Opens the faces of the training, of the validation and of the probe.

    Raises:
        DataError: The faces cannot be read, or the starting weights do not exist.
        ConfigError: A tracker is not installed.
    """
    check_trackers(config)
    fault("start", 0, process=jax.process_index())
    weights = config.init.params
    if weights and not epath.Path(weights).exists() and not (workdir / CHECKPOINTS).exists():
        raise DataError(f"config.init.params = {weights!r} does not exist: give another path")
    source = task.open_source(config)
    sets = {"source": source, "mesh": mesh}
    return source, task.open_validation(config, **sets), task.open_probe(config, **sets)


def _plan(
    config: ConfigDict, source: FaceSet, workdir: epath.Path, task: Task, *, compute_stats: bool
) -> tuple[Stats, Schedule]:
    """Returns the mean and standard deviation of the pixels, and the schedule. Logs the plan."""
    starting = partial(task.starting_stats, config)
    stats = find_stats(config.data, source, workdir, starting=starting, compute=compute_stats)
    schedule = make_schedule(config, len(source))
    by_steps = config.get("total_steps") is not None
    logger.info(
        "plan: %d samples, %g epochs of %.4g steps = %d steps; learning rate rises to %g"
        " in %g epochs; the schedule has %g epochs",
        len(source),
        schedule.total_steps / schedule.steps_per_epoch if by_steps else config.epochs,
        schedule.steps_per_epoch,
        schedule.total_steps,
        schedule.peak_learning_rate,
        schedule.warmup_epochs,
        schedule.schedule_epochs,
    )
    return stats, schedule


def _state_template(learner: Learner, mesh: Mesh) -> TrainState:
    """Returns the template of the state, and logs the size of its network."""
    template = state_template(learner, mesh)
    trained = jax.eval_shape(learner.trained, template.params)
    logger.info(
        "model: %s trainable parameters of %s, in %d arrays",
        *(f"{count(tree):,}" for tree in (trained, template.params)),
        len(jax.tree.leaves(template.params)),
    )
    return template


def _first_state(
    config: ConfigDict, learner: Learner, template: TrainState, workdir: epath.Path, task: Task
) -> TrainState:
    """Returns the state at step 0, with random weights or the weights that `config.init` names."""
    state = fresh_state(learner, template, seed=config.seed)
    if config.init.params:
        state, origin = task.load_weights(state, config)
        if jax.process_index() == 0:
            save_origin(workdir, origin)
    return state


def _check_stream(
    config: ConfigDict, source: FaceSet, stats: Stats, workdir: epath.Path, task: Task, *, step: int
) -> None:
    """Raises ConfigError if the stream of batches differs from the one that the workdir records."""
    faces = {"dataset": source.fingerprint(), "images": len(source)}
    fingerprint = make_fingerprint(config, **faces, stats=stats, of_task=task.fingerprint(config))
    accepted = config.resume.accept_changes
    check_fingerprint(workdir, fingerprint, step=step, accept_changes=accepted)
    if step:
        warn_of_other_weights(workdir, config.init.params)


def _is_done(workdir: epath.Path, step: int, total_steps: int) -> bool:
    """Logs the step at which the run continues. Returns whether the run has already ended."""
    if step:
        logger.info("resumed at step %d of %d", step, total_steps)
    if step >= total_steps:
        logger.info("nothing to do: the run in %s has done its last step", workdir)
    return step >= total_steps


def open_stream(
    config: ConfigDict, source: Source, element: Element, *, start_sample: int = 0
) -> Batches:
    """Opens the endless stream of batches, with the rows of this process. The caller closes it.

    Args:
        config: The resolved config.
        source: The training faces.
        element: Turns a face into a row of a batch.
        start_sample: Position in the stream of the first sample of the first batch.
    """
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
