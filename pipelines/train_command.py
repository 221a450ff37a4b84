"""The commands `dataset`, `train` and `evaluate` of `journeyman flywheel`. Errors are raised for the main command.

They know options, a run's steps and output; the work is done by the modules of the same names.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from observations.state import DEFAULT_ROOT
from pipelines.asking import engine_module
from pipelines.dataset_contents import LEAST_EXAMPLES, Choice, calls_of, choose, dataset_name
from pipelines.dataset_split import PARTS, SplitShares
from pipelines.datasets import Dataset, DatasetStore
from pipelines.fine_tune import PEFTFineTunePipeline
from pipelines.loop_rows import ASSIGNMENTS, CURATED, Assignment, CuratedCall, read_rows
from pipelines.provenance import provenance_of, save_provenance
from pipelines.run import RUNS, Run, Step, newest_run, sha256_of, write_atomically
from pipelines.training_config import PRESETS, TrainingConfig, check, least_steps, make_config
from pipelines.training_data import read_data
from pipelines.training_jobs import counted
from pipelines.training_result import Progress
from registry.entries import CanaryEntry, Prices
from registry.errors import BadInputError, IntegrityError, NotFoundError
from registry.registrar import Registrar
from specialists.engine.settings import DEFAULT_MODEL

_FOLDER = click.Path(file_okay=False, path_type=Path)
TRAINING = "training.json"
ADAPTER = "adapter"


def _state_option(command: Any) -> Any:
    return click.option("--state", type=_FOLDER, default=DEFAULT_ROOT, show_default=True)(command)


@click.group()
def dataset() -> None:
    """Build datasets of a task's believed calls, and look at them."""


@dataset.command("build")
@_state_option
@click.option("--run", "run_id", default=None, help="The run whose curated calls to take. Default: the newest.")
@click.option("--cluster", required=True, help="The task.")
@click.option("--name", default=None, help="Of the dataset. Default: the cluster's.")
@click.option("--project", default="default", show_default=True)
@click.option("--min-examples", default=LEAST_EXAMPLES, show_default=True)
@click.option("--dev-share", default=SplitShares().dev, show_default=True, help="For stopping early.")
@click.option("--test-share", default=SplitShares().test, show_default=True, help="For the evaluation.")
@click.option("--shadow-share", default=SplitShares().shadow, show_default=True, help="For the replay in shadow.")
@click.option("--json", "as_json", is_flag=True)
def dataset_build(state: Path, run_id: str | None, as_json: bool, **given: Any) -> None:
    """Make a version of the cluster's dataset, or find the one that holds just these calls."""
    runs = state / RUNS
    run_folder = runs / (run_id or newest_run(runs, "curate"))
    shares = SplitShares(given["dev_share"], given["test_share"], given["shadow_share"])
    choice = Choice(shares=shares, least_examples=given["min_examples"])
    store = DatasetStore(state, given["project"])
    made = build_dataset(store, run_folder, given["cluster"], given["name"], choice)
    facts = {"uri": made.uri, "sha256": made.sha256, "folder": str(made.folder), **made.sizes()}
    _show(facts, as_json)


@dataset.command("ls")
@_state_option
@click.option("--json", "as_json", is_flag=True)
def dataset_ls(state: Path, as_json: bool) -> None:
    """List the versions of all datasets."""
    store = DatasetStore(state)
    found = [{"uri": one.uri, **one.sizes()} for name in store.names() for one in store.versions(name)]
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for entry in found:
        sizes = ", ".join(f"{part} {entry[part]}" for part in PARTS)
        click.echo(f"{entry['uri']}: {sizes}")
    if not found:
        click.echo("No datasets yet: `journeyman flywheel dataset build --cluster NAME` makes one.")


@dataset.command("show")
@click.argument("uri")
@_state_option
def dataset_show(uri: str, state: Path) -> None:
    """Check every byte of a version and print its card."""
    click.echo((DatasetStore(state).open(uri).folder / "card.md").read_text())


@dataset.command("holds")
@click.argument("call_ids", nargs=-1, required=True)
@_state_option
@click.option("--json", "as_json", is_flag=True)
def dataset_holds(call_ids: tuple[str, ...], state: Path, as_json: bool) -> None:
    """List the datasets that hold any of the calls, and the adapters trained on those: what an erasure must remove."""
    held = DatasetStore(state).holding(call_ids)
    adapters = {name: uri for name, uri in trained_adapters(state).items() if uri in held}
    if as_json:
        click.echo(msgspec.json.encode({"datasets": held, "adapters": adapters}))
        return
    for uri, found in held.items():
        click.echo(f"{uri}: {', '.join(found)}")
    for adapter, uri in adapters.items():
        click.echo(f"{adapter}: trained on {uri}")
    if not held:
        click.echo("No dataset holds any of them.")


@click.command()
@_state_option
@click.option("--run", "run_id", default=None, help="The run to work in. Default: a new one.")
@click.option("--dataset", "uri", default=None, help="ds://project/name@version")
@click.option("--data", type=click.Path(path_type=Path), default=None, help="Or a file of JSON lines: input, output.")
@click.option("--base", "base_model", default=DEFAULT_MODEL, show_default=True, help="Name, folder or HF id.")
@click.option("--preset", type=click.Choice(list(PRESETS)), default="balanced", show_default=True)
@click.option("--epochs", "num_epochs", type=float, default=None)
@click.option("--learning-rate", type=float, default=None)
@click.option("--batch-size", type=int, default=None)
@click.option("--lora-rank", type=int, default=None)
@click.option("--max-examples", type=int, default=None)
@click.option(
    "--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default=None, help="Of the matrix products."
)
@click.option("--quantization", type=click.Choice(["none", "4bit"]), default=None, help="4bit needs CUDA.")
@click.option("--gradient-checkpointing", is_flag=True, default=None, help="Less memory, more time.")
@click.option("--seed", type=int, default=None)
@click.option("--threads", type=int, default=None)
@click.option("--usd-per-hour", "machine_usd_per_hour", type=float, default=None, help="For the estimate.")
@click.option("--dry-run", is_flag=True, help="A few steps that are not kept: time, memory, cost, two examples.")
@click.option("--json", "as_json", is_flag=True)
def train(
    state: Path, run_id: str | None, uri: str | None, data: Path | None, dry_run: bool, as_json: bool, **given: Any
) -> None:
    """Fine-tune an adapter on a dataset. A training that was cut goes on from its last checkpoint."""
    if (uri is None) == (data is None):
        raise BadInputError("Name what to train on: either --dataset ds://... or --data FILE.", param="dataset")
    source = DatasetStore(state).open(uri).folder if uri else data
    preset = given.pop("preset")
    if dry_run:
        config = make_config(preset, training_data_path=str(source), output_dir=str(state / "dry-run"), **given)
        _show(PEFTFineTunePipeline(_say).dry_run_training(config), as_json)
        return
    with Run.open(state / RUNS, run_id) as run:
        config = make_config(preset, training_data_path=str(source), output_dir=str(run.folder / "train"), **given)
        step = train_step(run, config)
        _show({"run": run.run_id, "adapter": str(step.folder / ADAPTER), **_told(step.facts)}, as_json)


@click.command()
@_state_option
@click.option("--run", "run_id", default=None, help="The run that trained. Default: the newest.")
@click.option("--max-examples", type=int, default=None, help="Of the test part. Default: all.")
@click.option("--base-examples", default=30, show_default=True, help="On which the base model is asked as well.")
@click.option("--alpha", default=0.05, show_default=True, help="Most that P(believed and wrong) may be.")
@click.option("--delta", default=0.1, show_default=True, help="Chance that this bound does not hold.")
@click.option("--price-input-usd-per-mtok", "price_in", type=float, default=None, help="Of the specialist.")
@click.option("--price-output-usd-per-mtok", "price_out", type=float, default=None)
@click.option("--threads", type=int, default=None)
@click.option("--json", "as_json", is_flag=True)
def evaluate(state: Path, run_id: str | None, as_json: bool, **given: Any) -> None:
    """Judge a trained adapter on the test part of its dataset, through the engine and the live verifier."""
    runs = state / RUNS
    with Run.open(runs, run_id or newest_run(runs, "train")) as run:
        price_in, price_out = given.pop("price_in"), given.pop("price_out")
        known = price_in is not None or price_out is not None
        prices = Prices(input_usd_per_mtok=price_in or 0, output_usd_per_mtok=price_out or 0) if known else None
        step = evaluate_step(run, DatasetStore(state), {**given, "prices": prices})
        if as_json:
            click.echo(msgspec.json.encode({"run": run.run_id, **step.facts}))
        else:
            click.echo((step.folder / "evaluation.md").read_text())


def build_dataset(
    store: DatasetStore, run_folder: Path, cluster: str, name: str | None = None, choice: Choice | None = None
) -> Dataset:
    """Make the dataset of a cluster from a run's curated calls, and its assignments where it has some.

    Calls keep the part that they had in earlier versions. Raises BadInputError when there are too few.
    """
    curated, assigned = run_folder / "curate" / CURATED, run_folder / "cluster" / ASSIGNMENTS
    rows = list(read_rows(assigned, Assignment)) if assigned.is_file() else []
    calls = calls_of(cluster, list(read_rows(curated, CuratedCall)), rows)
    name = name or dataset_name(cluster)
    choice = msgspec.structs.replace(choice or Choice(), earlier=store.earlier_parts(name))
    lineage = {"run": run_folder.name, "curated_sha256": sha256_of(curated)}
    if assigned.is_file():
        lineage["assignments_sha256"] = sha256_of(assigned)
    return store.add(name, choose(cluster, calls, choice), lineage)


def train_step(run: Run, config: TrainingConfig) -> Step:
    """Train as the step `train` of a run; done already, it is skipped. Its facts are the training's record."""
    check(config)
    data = read_data(Path(config.training_data_path))
    step = run.step("train", {"config": config.digest, "data": data.sha256}, keep_partial=True)
    if step.done:
        return step
    config = msgspec.structs.replace(config, output_dir=str(step.folder))
    steps = least_steps(len(data.train[: config.max_examples]), config)
    with counted(run), run.track("training", steps) as tracker:
        record = PEFTFineTunePipeline(run.progress).train(config, _followed(run, tracker))
    write_atomically(step.folder / TRAINING, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    provenance = save_provenance(provenance_of(config, run.run_id), step.folder)
    step.finish([step.folder / ADAPTER, step.folder / TRAINING, provenance], record)
    return step


def evaluate_step(run: Run, store: DatasetStore, options: dict[str, Any]) -> Step:
    """Evaluate the run's adapter as its step `evaluate`; its facts are the summary.

    Raises NotFoundError when the run has not trained, or not on a dataset with a test part.
    """
    facts = _training_facts(run.folder / "train")
    if not facts["dataset"].startswith("ds://"):
        raise NotFoundError(f"{run.folder} was trained on {facts['dataset']}, which has no test part. Use a dataset.")
    tested = store.open(facts["dataset"])
    wanted = {name: str(value) for name, value in options.items() if name != "threads"}
    step = run.step("evaluate", {"trained": sha256_of(run.folder / "train" / "manifest.json"), **wanted})
    if step.done:
        return step
    engine = engine_module()
    most = options.get("max_examples")
    question = engine.Question(
        base_model=facts["config"]["base_model"],
        adapter=run.folder / "train" / ADAPTER,
        examples=list(tested.rows("test"))[:most],
        shapes=tested.shapes(),
        template=tested.manifest.template,
        canary=msgspec.convert(facts["canary"], CanaryEntry | None),
        **{name: value for name, value in options.items() if name != "max_examples"},
    )
    asked = len(question.examples) + min(len(question.examples), question.base_examples)
    with run.track("evaluating", asked) as tracker:
        found = engine.evaluate(question, lambda *_: tracker.advance(), run.progress)
    step.finish(engine.write_evaluation(found, step.folder), engine.summary(found))
    return step


def trained_adapters(state: Path) -> dict[str, str]:
    """Return the dataset of each registered specialist, by id, and of each adapter still in a run, by folder.

    Raises IntegrityError for a specialist whose manifest does not hold, or a training's record that cannot be read:
    what it was trained on is then not known.
    """
    registrar = Registrar(state)
    return adapters_in_runs(state) | {one: registrar.check(one).dataset for one in registrar.history().stages}


def adapters_in_runs(state: Path) -> dict[str, str]:
    """Return the dataset of each adapter in a run, by folder. Raises IntegrityError for a record that is damaged."""
    found = {}
    for path in sorted((state / RUNS).glob(f"*/train/{TRAINING}")):
        try:
            found[str(path.parent / ADAPTER)] = str(msgspec.json.decode(path.read_bytes())["dataset"])
        except (OSError, msgspec.DecodeError, KeyError, TypeError) as error:
            raise IntegrityError(f"{path}: cannot be read ({error}). Delete the run, or restore it.") from error
    return found


def _training_facts(folder: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = msgspec.json.decode((folder / TRAINING).read_bytes())
    except OSError as error:
        raise NotFoundError(f"{folder} holds no finished training: run `journeyman flywheel train` first.") from error
    return facts


def _followed(run: Run, tracker: Any) -> Callable[[Progress], None]:
    """Follow the steps, and say each dev loss."""
    at = 0

    def follow(progress: Progress) -> None:
        nonlocal at
        if progress.step > at:
            tracker.advance(progress.step - at)
            at = progress.step
        if progress.dev_loss is not None:
            run.progress(f"step {progress.step} of {progress.steps}: dev loss {progress.dev_loss:.4f}")

    return follow


def _told(facts: dict[str, Any]) -> dict[str, Any]:
    names: Sequence[str] = ("dataset", "steps", "seconds", "examples", "train_loss", "dev_losses", "stopped_early")
    return {name: facts[name] for name in names}


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(facts))
        return
    for name, value in facts.items():
        click.echo(f"{name}: {value}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
