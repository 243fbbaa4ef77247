"""Any json, jsonl, parquet or hub data set -> <local_dir>/<split>.parquet; say which columns to read.

    python examples/data_preprocess/from_files.py --source my.jsonl --question_key problem --answer_key solution
    python examples/data_preprocess/from_files.py --source owner/name --messages_key messages --local_dir data/chats

A dot reaches into structures: ``--question_key extra_info.question``. The final answer is the last box of the answer,
or the column of ``--ground_truth_key``.

With ``--question_key instruction`` Alpaca's column ``input`` follows the instruction after an empty line.

``--messages_key`` takes conversations, lists of {role, content} or of {from, value}, that end with the assistant. They
are kept in the column ``messages``; train on them with ``data.multiturn.enable=true``. Those of one question and one
answer fill ``extra_info.question`` and ``extra_info.answer`` too, and can be trained as single turns; for the others,
and where there is a system message, these are null.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from preprocess import RowFunction, checked, prepare, run, source_parser
from rows import LONGEST_TEXT, MESSAGES_TYPE, DropRow, last_boxed, nested, require_text, training_row
from sources import Row

# Names of the {from, value} form.
ROLES = {
    **dict.fromkeys(("human", "prompter", "input"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "bot", "chatbot", "model", "output"), "assistant"),
}
# What a message may hold that the columns written here cannot.
KEPT_BY_TRAINER = ("tool_calls", "reasoning_content", "weight", "train", "trainable")


def question_row(data_source: str, question_key: str, answer_key: str, ground_truth_key: str | None) -> RowFunction:
    """A row function for columns with a question and its answer."""

    def row(example: Mapping[str, Any], split: str, index: int) -> Row:
        question, answer = require_text(example, question_key), require_text(example, answer_key)
        if question_key == "instruction":
            question = _with_alpaca_input(question, example)
        return training_row(data_source, question, answer, _gold(example, ground_truth_key, answer), split, index)

    return row


def _with_alpaca_input(instruction: str, example: Mapping[str, Any]) -> str:
    """Alpaca's ``input`` follows its instruction after an empty line; a row with more than both is no single turn."""
    for column in ("system", "history"):
        if example.get(column):
            raise DropRow(f"{column} is not empty, and a question with one answer has none: make it messages")
    more = example.get("input")
    if more is not None and not isinstance(more, str):
        raise DropRow(f"input is {type(more).__name__}, not text")
    return f"{instruction}\n\n{more}" if more and more.strip() else instruction


def messages_row(data_source: str, messages_key: str, ground_truth_key: str | None) -> RowFunction:
    """A row function for a column with a conversation."""

    def row(example: Mapping[str, Any], split: str, index: int) -> Row:
        messages = read_messages(nested(example, messages_key), messages_key)
        answer = messages[-1]["content"]
        single = [message["role"] for message in messages] == ["user", "assistant"]
        question = messages[0]["content"] if single else None
        filled = training_row(
            data_source, question or "", answer, _gold(example, ground_truth_key, answer), split, index
        )
        filled["extra_info"] |= {"question": question, "answer": answer if single else None}
        return {**filled, "prompt": messages[:-1], "messages": messages}

    return row


def read_messages(value: Any, where: str) -> list[dict[str, str]]:
    """``value`` as [{role, content}, ...] that holds a user's turn and ends with the assistant's; else DropRow."""
    if not isinstance(value, list) or not value:
        raise DropRow(f"{where} is not a list of messages")
    messages = []
    for message in value:
        if not isinstance(message, Mapping):
            raise DropRow(f"{where} holds something that is no message")
        held = [key for key in KEPT_BY_TRAINER if message.get(key) not in (None, [], {})]
        if held or isinstance(message.get("content"), list):
            what = held[0] if held else "content in parts"
            raise DropRow(f"{where} holds {what}, which the trainer reads from the file itself: data.train_files=FILE")
        role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
        if not isinstance(role, str) or not isinstance(content, str) or not content.strip():
            raise DropRow(f"{where} holds a message without role or text")
        messages.append({"role": ROLES.get(role, role), "content": content})
    if messages[-1]["role"] != "assistant" or all(message["role"] != "user" for message in messages):
        raise DropRow(f"{where} does not end with an answer of the assistant to a user")
    if sum(len(message["content"]) for message in messages) > LONGEST_TEXT:
        raise DropRow(f"{where} is longer than {LONGEST_TEXT:,} characters")
    return messages


def _gold(example: Mapping[str, Any], key: str | None, answer: str) -> str | None:
    if key is None:
        return last_boxed(answer)
    value = nested(example, key)
    if value is None or isinstance(value, bool | list | dict):
        raise DropRow(f"{key} is {'null' if value is None else type(value).__name__}, not a final answer")
    return str(value).strip() or None


def main(argv: Sequence[str] | None = None) -> None:
    parser = source_parser(__doc__, None, local_dir="data/from_files")
    parser.add_argument("--split", default="train", help="split to read and file to write (default: %(default)s)")
    parser.add_argument("--config", help="subset of a hub data set")
    parser.add_argument("--question_key", default="question", help="column of the question (default: %(default)s)")
    parser.add_argument("--answer_key", default="answer", help="column of the response (default: %(default)s)")
    parser.add_argument("--ground_truth_key", help="column of the final answer (default: the last box of the response)")
    parser.add_argument("--messages_key", help="column of conversations, in place of question and answer")
    parser.add_argument("--data_source", help="name of the set in the column data_source (default: that of --source)")
    args = parser.parse_args(argv)
    if checked(args):
        return
    if not args.source:
        raise ValueError("expected --source: a hub id, or a local folder or file of json, jsonl or parquet")
    name = args.data_source or (Path(args.source).stem if Path(args.source).expanduser().exists() else args.source)
    if args.messages_key:
        row, keys = messages_row(name, args.messages_key, args.ground_truth_key), [args.messages_key]
        extra = pa.schema([("messages", MESSAGES_TYPE)])
    else:
        row = question_row(name, args.question_key, args.answer_key, args.ground_truth_key)
        keys, extra = [args.question_key, args.answer_key], None
    keys += [args.ground_truth_key] if args.ground_truth_key else []
    columns = tuple(dict.fromkeys(key.split(".")[0] for key in keys))
    prepare(args, row, columns, (args.split,), args.config, extra_columns=extra)


if __name__ == "__main__":
    sys.exit(run(main))
