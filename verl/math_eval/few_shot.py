"""Worked examples in front of the question, for base models that know no chat format (``--num_shots``).

The examples are ours, not the original's: a few-shot score is comparable with others made here, not with the paper's.
"""

from dataclasses import replace

from verl.dft.data.prompts import PromptFormat
from verl.dft.data.templates import TEMPLATES

IN_ONE_TURN = ("qwen25-math-cot", "qwen25-math-cot-raft")  # the original puts all examples into the user's turn

EXAMPLES: tuple[tuple[str, str], ...] = (
    (
        "A bakery packs muffins in boxes of 6. On Monday it sold 14 boxes and 5 single muffins. "
        "How many muffins did it sell?",
        "The boxes hold $14 \\cdot 6 = 84$ muffins. With the 5 single ones that makes $84 + 5 = 89$. "
        "The answer is $\\boxed{89}$.",
    ),
    (
        "Find all real numbers $x$ with $x^2 - 5x + 6 = 0$.",
        "The left side factors: $x^2 - 5x + 6 = (x - 2)(x - 3)$. A product is zero when a factor is zero, so $x = 2$ "
        "or $x = 3$. The answer is $\\boxed{2, 3}$.",
    ),
    (
        "The sides of a triangle are 5, 12 and 13 long. What is its area?",
        "Since $5^2 + 12^2 = 25 + 144 = 169 = 13^2$, the sides 5 and 12 enclose a right angle. "
        "The area is $\\frac{1}{2} \\cdot 5 \\cdot 12 = 30$. The answer is $\\boxed{30}$.",
    ),
    (
        "Two fair dice are rolled. What is the probability that the numbers add up to 9?",
        "There are 36 equally likely outcomes. The sum is 9 for (3,6), (4,5), (5,4) and (6,3): 4 outcomes. "
        "The probability is $\\frac{4}{36} = \\frac{1}{9}$. The answer is $\\boxed{\\frac{1}{9}}$.",
    ),
    (
        "If $f(x) = 2x^2 - 3$, what is $f(f(2))$?",
        "First $f(2) = 2 \\cdot 4 - 3 = 5$. Then $f(5) = 2 \\cdot 25 - 3 = 47$. The answer is $\\boxed{47}$.",
    ),
    (
        "A coat costs 80 dollars. Its price is raised by 25 % and then lowered by 20 %. What does it cost now?",
        "After the rise it costs $80 \\cdot 1.25 = 100$ dollars. After the cut it costs $100 \\cdot 0.8 = 80$ dollars. "
        "The answer is $\\boxed{80}$.",
    ),
    (
        "Simplify $\\sqrt{50} - \\sqrt{8}$.",
        "We have $\\sqrt{50} = 5\\sqrt{2}$ and $\\sqrt{8} = 2\\sqrt{2}$, so the difference is $3\\sqrt{2}$. "
        "The answer is $\\boxed{3\\sqrt{2}}$.",
    ),
    (
        "How many positive divisors does 72 have?",
        "Since $72 = 2^3 \\cdot 3^2$, a divisor is $2^a 3^b$ with $a$ from 0 to 3 and $b$ from 0 to 2. "
        "That gives $4 \\cdot 3 = 12$ divisors. The answer is $\\boxed{12}$.",
    ),
)


def check_num_shots(num_shots: int, prompt_type: str) -> None:
    """Raises ValueError for a number of examples that there are not, or a prompt type that takes none."""
    if not 0 <= num_shots <= len(EXAMPLES):
        raise ValueError(f"expected num_shots from 0 to {len(EXAMPLES)}, found {num_shots}")
    if num_shots and prompt_type not in TEMPLATES:
        raise ValueError(
            f"--num_shots needs a named prompt type such as cot, found {prompt_type!r}: a chat template gives no place "
            "for worked examples that a model would have been trained with"
        )


def with_examples(prompt_format: PromptFormat, num_shots: int) -> PromptFormat:
    """The format with the first ``num_shots`` examples in front of the question, joined as the original joins them."""
    check_num_shots(num_shots, prompt_format.name)
    if num_shots == 0:
        return prompt_format
    named, shots = TEMPLATES[prompt_format.name], EXAMPLES[:num_shots]
    if prompt_format.name in IN_ONE_TURN:
        shown = [f"{question}\n{answer}" for question, answer in shots]
        template = prompt_format.template.replace("{input}", named.joint.join([*shown, "{input}"]))
    else:
        shown = [named.text.replace("{input}", question) + named.before_answer + answer for question, answer in shots]
        template = named.joint.join([*shown, prompt_format.template])
    return replace(prompt_format, name=f"{prompt_format.name}, {num_shots} shots", template=template)
