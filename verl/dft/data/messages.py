"""Conversations as people have them become messages as chat templates expect them.

Read are lists of messages or their JSON text; content as text or as a list of parts of text; tool calls whose arguments
are objects or their JSON text. Keys without a value are left out: columns of a file give every row the keys of all.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]

CALLERS = ("tool", "function", "ipython", "observation")  # roles of what a tool answered
# Names of roles in the {from, value} form (ShareGPT).
ROLES = {
    **dict.fromkeys(("human", "user", "prompter", "input"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "bot", "chatbot", "model", "output"), "assistant"),
    **dict.fromkeys(("observation", "function_response", "tool_response"), "tool"),
}
MARKER = "Zq{}qZ"


@dataclass
class Conversation:
    """messages: as the template gets them. weights: one per message, 0 for those that are not trained.

    tools: the list of their schemas, or None. enable_thinking: None where the row does not say.
    """

    messages: list[Message]
    weights: list[float] = field(default_factory=list)
    tools: list[Any] | None = None
    enable_thinking: bool | None = None

    @property
    def uses_tools(self) -> bool:
        """Whether tools are described, called or answer."""
        return bool(self.tools) or any(m.get("tool_calls") or m["role"] in CALLERS for m in self.messages)


def describe(value: Any) -> str:
    """A value in a complaint, shortened."""
    text = repr(value)
    return "null" if value is None else f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def read_messages(value: Any, where: str) -> Conversation:
    """The messages of ``value`` with the weights that they carry (``weight``, ``train``, ``trainable``).

    Raises ValueError, which names ``where``, for what is no list of messages with text.
    """
    value = from_json(value, where)
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(f"expected text or chat messages in {where}, found {describe(value)}")
    found = Conversation([])
    for message in value:
        if isinstance(message, Mapping) and "role" not in message and isinstance(message.get("from"), str):
            message = {**message, "role": ROLES.get(message["from"], message["from"]), "content": message.get("value")}
            message = {key: item for key, item in message.items() if key not in ("from", "value")}
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f"expected messages with role and content in {where}, found {describe(message)}")
        message = {key: item for key, item in message.items() if item is not None}
        found.weights.append(_weight_of(message, where))
        if not message.get("tool_calls"):
            message.pop("tool_calls", None)
        else:
            message["tool_calls"] = _read_calls(from_json(message["tool_calls"], where), where)
        message["content"] = _text_of(message.get("content"), where)
        if message["content"] is None:
            if not message.get("tool_calls"):
                raise ValueError(f"expected text as the content of a message in {where}, found {describe(message)}")
            del message["content"]
        found.messages.append(message)
    return found


def from_json(value: Any, where: str) -> Any:
    """``value``, or what its JSON text says where it is the text of a list or an object."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} looks like JSON, but is none ({error}).") from error
    return value


def without_nulls(value: Any) -> Any:
    """``value`` without the null entries of the objects in it."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def with_system(messages: Sequence[Message], system_prompt: str, fold: bool) -> list[Message]:
    """With ``system_prompt`` in front where no system message is; with ``fold`` inside the first user's message."""
    messages = list(messages)
    if system_prompt and not any(message["role"] in ("system", "developer") for message in messages):
        messages.insert(0, {"role": "system", "content": system_prompt})
    if not fold or messages[0]["role"] not in ("system", "developer"):
        return messages
    system, rest = messages[0]["content"], messages[1:]
    first = next((i for i, message in enumerate(rest) if message["role"] == "user"), None)
    if first is None:
        raise ValueError("data.fold_system_prompt=true needs a user's message to put the system message into.")
    rest[first] = {**rest[first], "content": f"{system}\n\n{rest[first]['content']}"}
    return rest


def marked(conversation: Conversation) -> tuple[Conversation, list[str]]:
    """A copy in which all that a template may leave out bears a mark, and the marks.

    What is marked: names of tools and of called tools, and the text of every message but the assistant's.
    """
    marks: list[str] = []

    def mark(text: str) -> str:
        marks.append(MARKER.format(len(marks)))
        return text + marks[-1]

    tools = [_with_marked_name(tool, mark) for tool in conversation.tools or []] or None
    messages = []
    for message in conversation.messages:
        message = dict(message)
        if "tool_calls" in message:
            message["tool_calls"] = [_with_marked_name(call, mark) for call in message["tool_calls"]]
        text = message.get("content")
        if message["role"] != "assistant" and text and text.strip() and text.lstrip()[0] not in "[{":
            message["content"] = mark(text.rstrip())
        messages.append(message)
    return Conversation(messages, conversation.weights, tools, conversation.enable_thinking), marks


def _with_marked_name(item: Any, mark: Any) -> Any:
    if isinstance(item, Mapping) and isinstance(item.get("function"), Mapping):
        return {**item, "function": _with_marked_name(item["function"], mark)}
    if isinstance(item, Mapping) and isinstance(item.get("name"), str):
        return {**item, "name": mark(item["name"])}
    return item


def _weight_of(message: Message, where: str) -> float:
    """Takes ``weight``, ``train`` and ``trainable`` out of a message."""
    weight = message.pop("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
        raise ValueError(f"expected a number of at least 0 as the weight of a message in {where}; found {weight!r}")
    for key in ("train", "trainable"):
        flag = message.pop(key, True)
        if flag not in (True, False, 0, 1):
            raise ValueError(f"expected true or false as {key} of a message in {where}; found {flag!r}")
        weight = weight if flag else 0.0
    return float(weight)


def _text_of(content: Any, where: str) -> str | None:
    """The text of a message: a text, or a list of parts of text, which are joined."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise ValueError(f"expected text as the content of a message in {where}, found {describe(content)}")
    texts = []
    for part in content:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else part
            raise ValueError(f"expected parts of text in a message in {where}, found a part of type {kind!r}.")
        texts.append(text)
    return "".join(texts)


def _read_calls(calls: Any, where: str) -> list[Any]:
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise ValueError(f"expected a list of tool calls in {where}, found {describe(calls)}")
    calls = [from_json(call, where) for call in calls]
    for call in calls:
        if not isinstance(call, Mapping):
            raise ValueError(f"expected tool calls with name and arguments in {where}, found {describe(call)}")
    return [_with_arguments(call, json.loads) for call in calls]


def with_text_arguments(messages: Sequence[Message]) -> list[Message]:
    """The same messages with the arguments of tool calls as JSON text, which some templates ask for."""

    def changed(message: Message) -> Message:
        calls = [_with_arguments(call, None) for call in message["tool_calls"]]
        return {**message, "tool_calls": calls}

    return [changed(message) if "tool_calls" in message else message for message in messages]


def _with_arguments(call: Any, load: Any) -> Any:
    if isinstance(call, Mapping) and isinstance(call.get("function"), Mapping):
        return {**call, "function": _with_arguments(call["function"], load)}
    if not isinstance(call, Mapping) or "arguments" not in call:
        return call
    arguments = call["arguments"]
    if load is None:
        return {**call, "arguments": json.dumps(arguments, ensure_ascii=False)}
    if isinstance(arguments, str):
        try:
            arguments = load(arguments)
        except json.JSONDecodeError:
            return call
    return {**call, "arguments": arguments}
