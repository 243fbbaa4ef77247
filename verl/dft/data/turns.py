"""Which training rows a conversation makes, and what of them is trained, by the rendering of its own chat template.

A reply is trained in the text that the template makes of the conversation up to it, behind the generation prompt: what
the model has to write itself when it is asked so. That includes what the template writes around a reply (a channel, an
empty thought) and the tokens that end it; it leaves out what only the very end of a rendering has.

Where the rendering of a later reply goes on from that of an earlier one, one row trains both. Where a template rewrites
earlier turns (takes thoughts out, moves the system message), each reply has its own row, with the earlier as context.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from verl.dft.data.control_tokens import ControlTokens
from verl.dft.data.joining import Piece
from verl.dft.data.messages import Conversation, Message, marked, with_system, with_text_arguments
from verl.dft.data.prompts import PromptFormat

MODES = ("auto", "all", "each", "last")

_OPENS_THOUGHT = re.compile(r"(<[^<>\s/]*think[^<>\s]*>|\[THINK\])\s*$")
_ASK, _REPLY, _NEXT = "1", "2qz2", "3"
_NEAR = 40  # characters at the end of a prompt in which a closed thought is looked for


@dataclass(frozen=True)
class Reply:
    """One assistant turn: ``text[start:end]`` is what the model writes; ``rendered`` is the template's own text.

    note: "" or what is odd about it.
    """

    text: str
    start: int
    end: int
    rendered: str
    note: str = ""


@dataclass(frozen=True)
class TurnRow:
    """A training row. pieces: its text with weights. replies: how many turns it trains. notes: what is odd."""

    pieces: list[Piece]
    replies: int
    notes: tuple[str, ...]


class Turns:
    """The habits of a chat template, found by filling it in, and the rows that it makes of conversations."""

    def __init__(self, prompts: PromptFormat, tokenizer: Any) -> None:
        self.prompts, self.tokenizer = prompts, tokenizer
        self.marks_replies = bool(re.search(r"\{%-?\s*generation\s*-?%\}", prompts.template))
        special = ControlTokens.of(tokenizer).stand_ins
        longest_first = sorted(special, key=lambda name: (-len(name), name))
        self.special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    # ---------------------------------------------------------------- habits

    @cached_property
    def _plain(self) -> tuple[str, str]:
        """What is written after a reply at the end of a conversation, and where a user's message follows."""
        turn = [_message("user", _ASK), _message("assistant", _REPLY)]
        final, middle = self._fill(turn), self._fill([*turn, _message("user", _NEXT)])
        if _REPLY not in final:
            raise ValueError("the chat template does not write what the assistant says.")
        return final.rpartition(_REPLY)[2], middle.rpartition(_REPLY)[2] if _REPLY in middle else ""

    @cached_property
    def header(self) -> str:
        """What a generation prompt adds to a conversation."""
        asked = [_message("user", _ASK)]
        try:
            plain = self._fill(asked)
        except ValueError:
            return ""
        prompt = self._fill(asked, add_generation_prompt=True)
        same = next((i for i, (a, b) in enumerate(zip(plain, prompt, strict=False)) if a != b), len(plain))
        return prompt[same:]

    @cached_property
    def only_in_prompts(self) -> str:
        """What a generation prompt has after the header that the rendering of a reply has not, as an opened thought."""
        asked = [_message("user", _ASK)]
        try:
            prompt = self._fill(asked, add_generation_prompt=True)
            answered = self._fill([*asked, _message("assistant", _REPLY)])
        except ValueError:
            return ""
        same = next((i for i, (a, b) in enumerate(zip(prompt, answered, strict=False)) if a != b), len(prompt))
        split = [found.start() for found in self.special.finditer(prompt) if found.start() < same < found.end()]
        return prompt[min([same, *split]) :]

    @cached_property
    def only_at_the_end(self) -> str:
        """What stands after the last reply's end alone, as Phi-3's end of text behind its end of turn."""
        final, middle = self._plain
        ends = [found.end() for found in self.special.finditer(final) if middle.startswith(final[: found.end()])]
        rest = final[ends[-1] :] if ends else ""
        return rest if rest.strip() else ""

    @cached_property
    def end(self) -> str:
        """What ends a reply, without blanks around; where the template writes nothing, the next turn's first token."""
        final = self._plain[0]
        own = final[: len(final) - len(self.only_at_the_end)].strip()
        return own or self._next_turns_token(self._plain[1])

    @cached_property
    def ends_with_next_turn(self) -> bool:
        """Whether the template writes no end of its own after a reply."""
        return not self._plain[0].strip() and bool(self.end)

    def _next_turns_token(self, text: str) -> str:
        found = self.special.match(text.lstrip())
        return found[0] if found else ""

    def _fill(self, messages: Sequence[Message], **variables: Any) -> str:
        return self.prompts.fill(messages, self.tokenizer, **variables)

    # ---------------------------------------------------------------- rows

    def rows(self, conversation: Conversation, mode: str = "auto") -> list[TurnRow]:
        """The rows that train ``conversation``; none where all weights are 0.

        Raises ValueError where the template cannot be filled in, leaves something out, or, with ``all``, rewrites.
        """
        conversation = self._understood(self._hidden(conversation))
        spoken = [i for i, message in enumerate(conversation.messages) if message["role"] == "assistant"]
        if not spoken:
            raise ValueError("expected an assistant message in the conversation, found none")
        if mode == "last":
            spoken = spoken[-1:]
        trained = [i for i in spoken if conversation.weights[i] > 0]
        replies = {i: self._reply(conversation, i) for i in trained}
        rows: list[TurnRow] = []
        while trained:
            last = trained.pop()
            text, spans = self._row_text(conversation, replies[last], last)
            together = [last]
            while mode in ("auto", "all") and trained and _goes_on(replies[trained[-1]], text):
                together.insert(0, trained.pop())
            if mode == "all" and trained:
                raise ValueError(
                    f"the chat template rewrites earlier turns when a conversation goes on (assistant message "
                    f"{trained[-1]}), so that no mask can mark what was said. Set data.multiturn.train=auto or each."
                )
            rows.insert(0, self._row(text, spans, [(replies[i], conversation.weights[i]) for i in together]))
        return rows

    def _hidden(self, conversation: Conversation) -> Conversation:
        hide = ControlTokens.of(self.tokenizer).hide
        prompts = self.prompts
        added = with_system(conversation.messages, prompts.system_prompt, prompts.fold_system_prompt)
        more = len(added) - len(conversation.messages)
        weights = [0.0] * more + conversation.weights if more > 0 else conversation.weights[-more:]
        return Conversation(
            hide(added), weights, hide(conversation.tools) if conversation.tools else None, conversation.enable_thinking
        )

    def _variables(self, conversation: Conversation) -> dict[str, Any]:
        found: dict[str, Any] = {"tools": conversation.tools} if conversation.tools else {}
        if conversation.enable_thinking is not None:
            found["enable_thinking"] = conversation.enable_thinking
        return found

    def _understood(self, conversation: Conversation) -> Conversation:
        """In the form of tool calls that the template writes. Raises ValueError where it leaves something out."""
        if all(m["role"] in ("user", "assistant") for m in conversation.messages) and not conversation.uses_tools:
            return conversation
        failure: ValueError | None = None
        for messages in _forms(conversation.messages):
            form = Conversation(messages, conversation.weights, conversation.tools, conversation.enable_thinking)
            probe, marks = marked(form)
            try:
                text = self._fill(probe.messages, **self._variables(probe))
            except ValueError as error:
                failure = failure or error
                continue
            if all(mark in text for mark in marks):
                return form
            what = "tools, tool calls or their answers" if conversation.uses_tools else "a message that is no user's"
            failure = failure or ValueError(
                f"the chat template leaves out {what}. Remove such rows, or choose a template that writes them."
            )
        assert failure is not None
        raise failure

    def _row_text(self, conversation: Conversation, reply: Reply, index: int) -> tuple[str, list[tuple[int, int]]]:
        """The text of the row whose last trained reply is ``reply``, and the spans that the template itself marks."""
        messages, variables = conversation.messages, self._variables(conversation)
        if not any(message["role"] == "assistant" for message in messages[index + 1 :]) and index + 1 < len(messages):
            whole = self._fill(messages, **variables)
            if whole.startswith(reply.text[: reply.end]):
                reply = Reply(whole, reply.start, reply.end, whole)
            index = len(messages) - 1
        if not self.marks_replies:
            return reply.text, []
        text, spans = self.prompts.fill_marked(messages[: index + 1], self.tokenizer, **variables)
        return text, spans

    def _row(self, text: str, spans: list[tuple[int, int]], replies: list[tuple[Reply, float]]) -> TurnRow:
        pieces: list[Piece] = []
        done = 0
        for reply, weight in replies:
            parts = [(reply.start, reply.end)]
            if self.marks_replies:
                bounds = [(max(a, done), min(b, len(reply.rendered))) for a, b in spans]
                parts = [(a, b) for a, b in bounds if a < b and b > reply.start]
            for start, end in parts:
                pieces += [(text[done:start], 0.0), (text[start:end], weight)]
                done = end
        pieces.append((text[done:], 0.0))
        return TurnRow(pieces, len(replies), tuple(reply.note for reply, _ in replies if reply.note))

    # ---------------------------------------------------------------- one reply

    def _reply(self, conversation: Conversation, index: int) -> Reply:
        messages, variables = conversation.messages, self._variables(conversation)
        message = messages[index]
        whole = self._fill(messages[: index + 1], **variables)
        speaks_first = all(earlier["role"] in ("system", "developer") for earlier in messages[:index])
        try:
            before = self._fill(messages[:index], add_generation_prompt=True, **variables)
        except ValueError:
            if not speaks_first:
                raise
            before = ""
        opened = _OPENS_THOUGHT.search(before)
        thought, more = _thought_of(message), self.only_in_prompts
        if thought and _squeezed(thought) not in _squeezed(whole[min(len(before), len(whole)) :]):
            return self._with_own_thought(message, before, opened, index)
        base = before[: len(before) - len(more)] if more and before.endswith(more) else before
        note = ""
        if whole.startswith(before) and (before.endswith(self.header) or not speaks_first):
            start = len(before)
        elif speaks_first and (found := self._first_header(whole)):
            start = found
        elif opened and thought:
            return self._with_own_thought(message, before, opened, index)
        elif base != before and whole.startswith(base) and not opened and _ends_in_tag(more):
            # The prompt says that there is no thought, and the rendering of what was said has no word of it.
            whole, start = before + whole[len(base) :], len(before)
        elif base != before and whole.startswith(base):
            start = len(base)
            note = "replies without the thought that the template's prompt opens, trained as it writes them"
        else:
            raise ValueError(
                f"the chat template writes assistant message {index} otherwise than its generation prompt begins, so "
                "that the model would be trained on what it is never asked. Use another template."
            )
        return self._ended(conversation, index, whole, start, note)

    def _first_header(self, whole: str) -> int:
        """Where the header of an assistant who speaks first ends; 0 where there is none."""
        bare = self.header[: len(self.header) - len(self.only_in_prompts)]
        for header in (self.header, bare):
            if header and header in whole:
                return whole.index(header) + len(header)
        return 0

    def _with_own_thought(self, message: Message, before: str, opened: re.Match | None, index: int) -> Reply:
        """The template takes the thought out of the last turn as well: it is trained behind the generation prompt."""
        thought, content = message.get("reasoning_content"), message.get("content") or ""
        more = self.only_in_prompts
        closed = not opened and (_ends_in_tag(more) if more else _ends_in_tag(before[-_NEAR:], closing=True))
        if message.get("tool_calls") or closed or (thought and not opened):
            hint = "Write it into the content, remove it, or choose a template that keeps it."
            if closed:
                hint = (
                    "Its prompt asks for none: set data.apply_chat_template_kwargs.enable_thinking=true, or remove it."
                )
            raise ValueError(f"the chat template leaves out the thought of assistant message {index}. {hint}")
        said = f"{_closed(opened[1], thought)}{content}" if thought and opened else content
        said = without_opened_thought(before, said)
        text = before + said + self._plain[0]
        end = len(text[: len(text) - len(self.only_at_the_end)].rstrip())
        return Reply(text, len(before), end, text)

    def _ended(self, conversation: Conversation, index: int, whole: str, start: int, note: str) -> Reply:
        rendered = whole
        extra = self.only_at_the_end
        end = len(whole) - len(extra) if extra and whole.endswith(extra) else len(whole)
        if self.ends_with_next_turn and not self.marks_replies:
            token = self._follower(conversation, index, whole)
            stripped = whole[:end]
            text = whole if stripped.endswith(token) else whole + token
            return Reply(text, start, len(text), rendered, note)
        end = max(start, len(whole[:end].rstrip()))  # a newline after the end of a turn is the template's
        return Reply(whole, start, end, rendered, note)

    def _follower(self, conversation: Conversation, index: int, whole: str) -> str:
        """The token of the turn that follows, where it is this that ends a reply."""
        following = conversation.messages[index + 1 : index + 2]
        if following and following[0]["role"] != "user":
            longer = self._fill(conversation.messages[: index + 2], **self._variables(conversation))
            if longer.startswith(whole) and (token := self._next_turns_token(longer[len(whole) :])):
                return token
        return self.end


def without_opened_thought(prompt: str, response: str) -> str:
    """``response`` as it goes on from ``prompt``: a thought that the prompt has opened is not opened again."""
    opened = _OPENS_THOUGHT.search(prompt)
    if opened is None or not response.lstrip().startswith(opened[1]):
        return response
    rest = response.lstrip()[len(opened[1]) :]
    written = opened[0][len(opened[1]) :]  # blanks that the prompt has after the tag
    return rest[len(written) :] if rest.startswith(written) else rest.lstrip("\n") if written else rest


def _ends_in_tag(text: str, closing: bool = False) -> bool:
    """Whether a prompt ends by closing a thought, or, where its end stands in prompts alone, in any tag."""
    return bool(re.search(r"</[^<>\s]*think[^<>\s]*>\s*$" if closing else r"[>\]]\s*$", text))


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _goes_on(reply: Reply, text: str) -> bool:
    return text.startswith(reply.text[: reply.end])


def _closed(tag: str, thought: str) -> str:
    """A thought within its tags, as reasoning models write it."""
    return f"{tag}\n{thought.strip()}\n{_closing(tag)}\n\n"


def _closing(tag: str) -> str:
    return tag[0] + "/" + tag[1:]


def _thought_of(message: Message) -> str:
    """The thought of a message, in a key of its own or in front of its content."""
    own = message.get("reasoning_content")
    if isinstance(own, str) and own.strip():
        return own
    inside = re.match(r"\s*(?:<think>)?(.*?)</think>", message.get("content") or "", re.DOTALL)
    return inside[1] if inside else ""


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _forms(messages: list[Message]) -> list[list[Message]]:
    """The forms in which templates expect tool calls: arguments as objects or text, no content, null or empty."""
    calls = any("tool_calls" in message for message in messages)
    if not calls:
        return [messages]

    def filled(content: Any) -> list[Message]:
        return [{"content": content, **message} if "tool_calls" in message else message for message in messages]

    objects = [messages, filled(None), filled("")]
    texts = [with_text_arguments(form) for form in objects]
    return [*objects, *texts]
