"""The named prompt types: names and letters of the Qwen2.5-Math harness, so that scores can be compared with its."""

from dataclasses import dataclass

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)


@dataclass(frozen=True)
class NamedTemplate:
    """A prompt of plain text.

    text: what stands around a question; "{input}" is the question, other braces are literal.
    joint: what stands between few-shot examples. before_answer: what stands between a prompt and an example's answer.
    stop: texts with which a base model goes on to a question of its own.
    """

    text: str
    joint: str = "\n\n"
    stop: tuple[str, ...] = ()
    before_answer: str = ""


def _chatml(system: str, user: str) -> str:
    system_turn = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return f"{system_turn}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


def _llama_boxed(end: str) -> str:
    def turn(role: str) -> str:
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n"

    return (
        f"{turn('system')}You are a helpful assistant.{end}\n{turn('user')}{{input}}\n{BOXED}{end}\n{turn('assistant')}"
    )


_QUESTION = "Question: {input}\nAnswer: "
_QWEN25_COT = NamedTemplate(_chatml(BOXED, "{input}"))
_THREE = "\n\n\n"
_JIUZHANG_STOP = ("\n\n## Question",)

# What the prompt writes. The original stops at the bare words, which cut right answers ("In Response to ...").
_MARKED = ("### Instruction:", "### Response:")

TEMPLATES: dict[str, NamedTemplate] = {
    "qwen-boxed": NamedTemplate(_chatml("You are a helpful assistant.", "{input}\n" + BOXED)),
    "qwen25-math-cot": _QWEN25_COT,
    "qwen25-math-cot-raft": _QWEN25_COT,
    "llama-base-boxed": NamedTemplate(_llama_boxed("<|end_of_text|>")),
    "llama-ins-boxed": NamedTemplate(_llama_boxed("<|eot_id|>")),
    "deepseek-math": NamedTemplate("User: {input}\n" + BOXED + "\n\nAssistant:", _THREE),
    "direct": NamedTemplate(_QUESTION),
    "cot": NamedTemplate(_QUESTION, _THREE, ("\n\nQuestion:",)),
    "mathstral": NamedTemplate("{input}\n" + BOXED),
    "self-instruct": NamedTemplate("<|user|>\n{input}\n<|assistant|>\n", "\n"),
    "wizard_zs": NamedTemplate("### Instruction:\n{input}\n\n### Response: Let's think step by step.", _THREE, _MARKED),
    # Wrapped twice, as the original does.
    "platypus_fs": NamedTemplate(
        _ALPACA + "### Instruction:\n### Instruction:\n{input}\n\n### Response:\n\n\n### Response:\n",
        _THREE,
        _MARKED,
    ),
    "kpmath": NamedTemplate(
        "User: Please reason step by step and put your final answer at the end with "
        '"The answer is: ".\n\n{input}\n\nAssistant:'
    ),
    "jiuzhang": NamedTemplate("## Question\n{input}\n\n## Solution\n", _THREE, _JIUZHANG_STOP),
    "jiuzhang_nl": NamedTemplate("## Question\n{input}\n\n## Natural Language Solution\n", _THREE, _JIUZHANG_STOP),
    "mmiqc": NamedTemplate(
        'Please solve the following problem and put your answer at the end with "The answer is: ".\n\n{input}\n\n',
        _THREE,
    ),
    "abel": NamedTemplate("Question:\n{input}\nAnswer:\nLet's think step by step.\n"),
    "shepherd": NamedTemplate("{input}\n", _THREE),
    "internlm-math-fs": NamedTemplate("Question:{input}\nAnswer:", "\n"),
    "internlm-math-chat": NamedTemplate(_chatml("", "{input}")),
    "mistral": NamedTemplate("[INST] {input}[/INST]"),
    "numina": NamedTemplate("### Problem: {input}\n### Solution:", stop=("\n### Problem",), before_answer=" "),
}

# These ask for programs. Nothing here runs a program that a model wrote.
PROGRAM_TYPES = ("pal", "tool-integrated", "tora", "jiuzhang_tora")

# What a model is asked with. The original strips blanks from the ends of the finished prompt: "Answer: " is "Answer:".
NAMED_TEMPLATES: dict[str, str] = {name: template.text.strip(" ") for name, template in TEMPLATES.items()}
