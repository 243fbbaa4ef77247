"""Right and wrong answers, each with its reason. The near misses matter as much as the other spellings."""

import pytest

from verl.math_eval.grading.compare import answer_key, compare

# A line is "answer == gold" or "answer != gold", with two blanks around the sign; a line with # names the reason.
SAME = r"""
# fractions
\frac12  ==  \frac{1}{2}
\dfrac{1}{2}  ==  1/2
{1 \over 2}  ==  0.5
½  ==  \frac{1}{2}
\frac{2}{4}  ==  \frac12
-\frac{1}{2}  ==  \frac{1}{-2}
1\frac12  ==  \frac32
3 1/2  ==  \frac72
-1\frac12  ==  -1.5
{5 \choose 2}  ==  10
# whole numbers
1,234  ==  1234
1{,}234  ==  1234
1\,234  ==  1234
1 000 000  ==  1000000
025  ==  25
5.0  ==  5
+7  ==  7
-0  ==  0
2^{10}  ==  1024
3!  ==  6
\sqrt{49}  ==  7
|-7|  ==  7
6 \times 7  ==  42
100 \cdot 99!  ==  100!
1267650600228229401496703205376  ==  2^{100}
# decimals
.5  ==  0.5
2.50  ==  2.5
0.3333  ==  \frac13
0.6666  ==  \frac23
\frac13  ==  0.33
3.1416  ==  \pi
12.346  ==  12.35
0.\overline{3}  ==  \frac13
\frac{5}{11}  ==  0.\overline{45}
# powers of ten
1.6 \times 10^{-19}  ==  1.6e-19
4.5e33  ==  4.5 \cdot 10^{33}
6.02 x 10^23  ==  6.02e23
0.00012  ==  1.2e-4
# percent
50  ==  50\%
50\%  ==  50
25\%  ==  0.25
28 pct  ==  28\%
100\%  ==  1
50\%  ==  \frac12
# units
8 \text{ hours}  ==  8
15\text{ cm}^2  ==  15\mbox{ square cm}
\$5  ==  5
90^\circ  ==  90
5 apples  ==  5
5\text{ km/h}  ==  5\text{ km per hour}
12\text{ inches}  ==  12\text{ in}
5 dollars  ==  \$5
42\text{ ways}  ==  42
# radicals and functions
2\sqrt2  ==  \sqrt{8}
\frac{1}{\sqrt{2}}  ==  \frac{\sqrt2}{2}
2^{1/2}  ==  √2
\sqrt[3]{-8}  ==  -2
\log_2 8  ==  3
\ln 2  ==  \log_e 2
\arctan 1  ==  \frac{\pi}{4}
np.arcsin(10/13)  ==  \arcsin\frac{10}{13}
\cos 60^\circ  ==  \frac12
\tan^{-1}(2)  ==  \arctan 2
0.5\pi  ==  π/2
\sin 2x  ==  2\sin x\cos x
# complex numbers
i^2  ==  -1
e^{i\pi}  ==  -1
\frac{1+i}{2}  ==  \frac12+\frac{i}{2}
\sqrt{-4}  ==  2i
# expressions
b+a  ==  a+b
(x+1)^2  ==  x^2+2x+1
\frac{x^2-1}{x-1}  ==  x+1
2\cdot 2^n  ==  2^{n+1}
n(n-1)!  ==  n!
\frac{n(n-1)}{2}  ==  \binom{n}{2}
1/2x  ==  \frac{x}{2}
1/2x  ==  \frac{1}{2x}
2t  ==  t+t
\sqrt{x^2}  ==  |x|
\lceil n/2\rceil  ==  \lfloor\frac{n+1}{2}\rfloor
\lambda_{red}/\sqrt2  ==  \lambda_{\text {red}} / \sqrt{2}
# names in front
x=5  ==  5
5  ==  x = 5
f(x)=x^2  ==  x^2
f(t)=t^2  ==  f(x)=x^2
y=x^2  ==  f(x)=x^2
x \approx 5  ==  5
(m,n)=(3,4)  ==  (3,4)
x=1/3\approx1.3  ==  1/3
m_{\max}=n^2  ==  n^{2}
\angle ABC=90  ==  90
# equations
y^2+x^2=4  ==  x^2+y^2=4
y=\frac12x  ==  x-2y=0
-34x-45y+20z-100=0  ==  34x+45y-20z+100=0
2x=4  ==  x=2
SRMC=MR  ==  MR=SRMC
# intervals
[0.5,1]  ==  [\frac12,1]
x\in[0,1]  ==  [0,1]
2<x<5  ==  (2,5)
(5,\infty)  ==  x>5
5 \le x  ==  x \ge 5
x<-2\text{ or }x>3  ==  (-\infty,-2)\cup(3,\infty)
(3,∞)∪(-∞,-2)  ==  (-\infty,-2)\cup(3,\infty)
\{x \mid x>2\}  ==  (2,\infty)
\mathbb{R}  ==  (-\infty,\infty)
-x>-1  ==  x<1
2x<10  ==  x<5
x >= 5  ==  x\geq5
# lists and sets
2,1  ==  1,2
1 \text{ and } 2  ==  1,2
\{2,1\}  ==  1,2
3,-3  ==  \pm 3
x=3\text{ or }x=-3  ==  \pm3
(2,1),(1,2)  ==  (1,2),(2,1)
b=3, a=2  ==  a=2, b=3
1+\sqrt{19}, 1-\sqrt{19}  ==  1 \pm \sqrt{19}
\{\}  ==  \emptyset
$69$, $84$  ==  $69$,$84$
x\in\{1,2\}  ==  1,2
# tuples
(0.5,3)  ==  (\frac12,3)
1,2  ==  (1,2)
(1,2)  ==  1,2
\langle1,2\rangle  ==  (1,2)
(1,2)  ==  \begin{pmatrix}1\\2\end{pmatrix}
# matrices
\begin{bmatrix}1&0\\0&1\\\end{bmatrix}  ==  \begin{pmatrix}1 & 0\\0 & 1\end{pmatrix}
\left[\begin{array}{cc}1 & 2 \\3 & 4\end{array}\right]  ==  \begin{pmatrix}1&2\\3&4\end{pmatrix}
\begin{pmatrix}-1/3\\2/3\end{pmatrix}  ==  \begin{pmatrix} -\frac{1}{3} \\ \frac{2}{3} \end{pmatrix}
# choices
(B)  ==  B
\mathrm{(B)}  ==  B
D.  ==  D
A, C, D  ==  ACD
\textbf{(D) }\frac{1}{2}  ==  D
Option A  ==  A
C  ==  \text{(C) } 12
12  ==  \text{(C) } 12
# text
\text{No}  ==  no
\text{odd}  ==  odd
Evelyn  ==  \text{Evelyn}
4:30 PM  ==  \text{4:30 p.m.}
\text{no solutions}  ==  no solution
# ratios and bases
2:4  ==  1:2
1 : 2  ==  1:2
1:2  ==  \frac12
1011  ==  1011_2
1011_{2}  ==  1011_2
12:00  ==  12:00
10_{\text{two}}  ==  10_2
1011 \text{ base } 2  ==  1011_2
2\mathrm{A}_{16}  ==  2A_{16}
4{:}30  ==  4:30
3\text{ to }4  ==  3:4
7\text{ a.m.}  ==  7:00\text{ AM}
# residues
5\bmod 3  ==  2
2\pmod{3}  ==  2
x\equiv 2\pmod 3  ==  x \equiv 2 \pmod{3}
# what the problem asked for, in front of "="
m+n=33  ==  33
[ABC]=12  ==  12
P(X=2)=\frac12  ==  0.5
\sin\theta=\frac35  ==  \frac{3}{5}
\sum_{k=1}^{5}k=15  ==  15
10=x  ==  10
# sets of numbers
x\ne0  ==  (-\infty,0)\cup(0,\infty)
\mathbb{R}\setminus\{0\}  ==  (-\infty,0)\cup(0,\infty)
|x|<2  ==  (-2,2)
|x|\ge 2  ==  (-\infty,-2]\cup[2,\infty)
x>1\text{ and }x<2  ==  (1,2)
x>2, x\ne 3  ==  (2,3)\cup(3,\infty)
x=0\text{ or }x\ge3  ==  \{0\}\cup[3,\infty)
[0,1]\cup[1,2]  ==  [0,2]
(0,1)\cap(0.5,2)  ==  (0.5,1)
]0,1]  ==  (0,1]
x>e  ==  (e,\infty)
\text{all real numbers}  ==  (-\infty,\infty)
\text{no solution}  ==  \emptyset
# parameters
x=2k\pi, k\in\mathbb{Z}  ==  2k\pi
x=2k\pi, k\in\mathbb{Z}  ==  x=2n\pi, n\in\mathbb{Z}
# tuples and lists that say the same
(x,y)=(1,2)  ==  x=1,y=2
y=2,x=1  ==  (1,2)
x_1=2,x_2=1  ==  1,2
\{(1,2)\}  ==  (1,2)
\{1,1,2\}  ==  \{1,2\}
\begin{cases}x=1\\y=2\end{cases}  ==  (1,2)
P(1,2)  ==  (1,2)
# matrices with something around them
\frac12\begin{pmatrix}1&2\\3&4\end{pmatrix}  ==  \begin{pmatrix}1/2&1\\3/2&2\end{pmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix}^T  ==  \begin{pmatrix}1&3\\2&4\end{pmatrix}
\begin{pmatrix}1\\[2pt]2\end{pmatrix}  ==  \begin{pmatrix}1\\2\end{pmatrix}
[[1,2],[3,4]]  ==  \begin{pmatrix}1&2\\3&4\end{pmatrix}
# words for numbers, scales and currencies
\text{twenty-five}  ==  25
\text{5 cm}  ==  5
5\text{ million}  ==  5000000
5\text{ million}  ==  5
\$1.5\text{ million}  ==  1500000
₹50  ==  50
5 g  ==  5\text{ grams}
\text{Bob and Alice}  ==  \text{Alice, Bob}
# decimals that go on
0.333\ldots  ==  \frac13
0.1666...  ==  \frac16
2.718281828\ldots  ==  e
# complex numbers in polar form
2\operatorname{cis}60^\circ  ==  1+\sqrt3 i
\gcd(12,18)  ==  6
"""

DIFFERENT = r"""
# whole numbers are exact
43  !=  42
999999  !=  1000000
54321  !=  54322
99999999  !=  100000000
0.99999999  !=  1
2^{10}+1  !=  1024
24  !=  42
3 4  !=  34
-1  !=  1
# x100 is no rounding
0.42  !=  42
300  !=  3
1.234  !=  1,234
0.5  !=  50
0.2  !=  2\%
10,000  !=  1000
# fractions
\frac{12}{3}  !=  \frac{1}{23}
3\frac12  !=  \frac32
\frac{27}{8}  !=  \frac{72}{8}
\frac{10001}{10000}  !=  1
# too few or wrong digits
0.33  !=  \frac13
0.3334  !=  \frac13
1.41  !=  \sqrt2
1.4143  !=  \sqrt2
\frac{22}{7}  !=  \pi
3.14  !=  \pi
1.59  !=  1.6
12.35  !=  12.346
1.0001  !=  1
1000,99  !=  1000.99
# tiny numbers are not zero
1.7\times10^{-19}  !=  1.6\times10^{-19}
0  !=  \frac{1}{10^{20}}
3^{-50}  !=  3^{-51}
0.00000001  !=  0.00000002
10^{-30}  !=  -10^{-30}
# units
5\text{ m}  !=  5\text{ cm}
30\text{ hours}  !=  30\text{ minutes}
5 cents  !=  \$5
5000\text{ m}  !=  5\text{ km}
# radicands and functions
\sqrt{10001}  !=  \sqrt{10000}
\sqrt{5}  !=  \sqrt2+\sqrt3
4  !=  4\sqrt2
\log_{10} 2  !=  \ln 2
2\pi  !=  \pi
180^\circ  !=  \pi
\frac{\pi}{6}  !=  30
\lfloor\sqrt n\rfloor  !=  \lfloor\sqrt{n-1}\rfloor
\frac{1-\sqrt5}{2}  !=  \frac{1+\sqrt5}{2}
# variables
g-b  !=  a-b
cx  !=  dx
m  !=  n
h  !=  t
x_2  !=  x_1
x  !=  |x|
E  !=  \text{e}
2x^2  !=  (2x)^2
x  !=  42
a+b/2  !=  \frac{a+b}{2}
\binom{2n}{n+1}  !=  \binom{2n}{n}
x+c  !=  x+a
# relations
x<5  !=  x>5
x>5  !=  x\ge5
y=3x+2  !=  y=2x+3
x+2y=4  !=  2x+4y=6
x=x  !=  5
0=0  !=  y=2x+3
y=2  !=  x=2
x=42=43  !=  43
11a+c  !=  7=11a+c
f(x)=x^3  !=  f(x)=x^2
x>-1  !=  x<1
# intervals
[0,1]  !=  [0,1)
(0,1]  !=  [0,1)
(1,3)  !=  (-\infty,1)\cup(3,\infty)
(-∞,-2]∪(3,∞)  !=  (-\infty,-2)\cup(3,\infty)
(0,1)\cup\{3\}  !=  (0,1)\cup\{2\}
-\infty  !=  \infty
# lists
1  !=  1,-2
41, 42  !=  42
\{41,42\}  !=  42
1,2,4  !=  1,2,3
\{1,2,2\}  !=  \{1,2,3\}
2  !=  \pm2
1+\sqrt{19}  !=  1\pm\sqrt{19}
10;5  !=  5;10
a=3, b=2  !=  a=2, b=3
3,2  !=  a=2, b=3
910  !=  9,10
9,10  !=  910
x=41, x=42  !=  42
# tuples
(2,1)  !=  (1,2)
2,1  !=  (1,2)
\{1,2\}  !=  (1,2)
(1,2)  !=  (1,2,3)
[1,2]  !=  (1,2)
(100,200)  !=  (1,2)
1  !=  (1,2)
(2,1)  !=  \begin{pmatrix}1\\2\end{pmatrix}
# matrices
\begin{pmatrix}1&3\\2&4\end{pmatrix}  !=  \begin{pmatrix}1&2\\3&4\end{pmatrix}
\begin{vmatrix}1&2\\3&4\end{vmatrix}  !=  \begin{pmatrix}1&2\\3&4\end{pmatrix}
-2  !=  \begin{pmatrix}1&2\\3&4\end{pmatrix}
# choices
B  !=  A
A, B  !=  A
AC  !=  ACD
ABCD  !=  A
a  !=  A
1  !=  A
# text
\text{even}  !=  odd
\text{possible}  !=  \text{not possible}
42  !=  \text{Evelyn}
\text{undefined}  !=  0
# ratios and bases
4:3  !=  3:4
1:00  !=  12:00
204_6  !=  204_5
1:2:4  !=  1:2:3
10_{\text{two}}  !=  10_3
A_2  !=  A
4:30\text{ PM}  !=  4:30\text{ AM}
7\text{ a.m.}  !=  7\text{ p.m.}
4\text{ to }3  !=  3:4
# residues
x\equiv 2\pmod 3  !=  x\equiv 2\pmod 5
2 \pmod 3  !=  2 \pmod 5
5\bmod 3  !=  3
# steps on the way, and contradictions
x^2=4  !=  4
2x=10  !=  10
m+n=33=34  !=  34
7  !=  x+y=7
# sets of numbers
x<2\text{ and }x>5  !=  (2,5)
x>2  !=  (2,3)\cup(3,\infty)
[0,1)\cup(1,2]  !=  [0,2]
|x|\le2  !=  (-2,2)
]1,2[  !=  [1,2]
\mathbb{R}  !=  (-\infty,0)\cup(0,\infty)
# parameters, tuples, sets
x=2k\pi, k\in\mathbb{N}  !=  x=2k\pi, k\in\mathbb{Z}
(x,y)=(2,1)  !=  x=1,y=2
\{(2,1)\}  !=  (1,2)
1,1,2  !=  1,2
# matrices with something around them
2\begin{pmatrix}1\\2\end{pmatrix}  !=  \begin{pmatrix}1\\2\end{pmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix}^2  !=  \begin{pmatrix}1&2\\3&4\end{pmatrix}
# units and scales
100^\circ\text{F}  !=  100^\circ\text{C}
5\text{ V}  !=  5\text{ A}
1.5\text{ kJ}  !=  1.5\text{ J}
5\text{ million}  !=  5\text{ billion}
5 m  !=  5
# nothing
\{\}  !=  0
,  !=  5
\frac{0}{0}  !=  1
(  !=  5
"""


def rows(table: str, sign: str) -> list:
    found, reason = [], ""
    for line in table.strip().splitlines():
        if line.startswith("# "):
            reason = line[2:]
        else:
            answer, gold = line.split(f"  {sign}  ")
            found.append(pytest.param(answer, gold, id=f"{reason}: {answer} | {gold}"))
    return found


@pytest.mark.parametrize(("answer", "gold"), rows(SAME, "=="))
def test_same_answer_in_another_spelling(answer, gold):
    verdict = compare(answer, gold, symbolic=lambda a, g: pytest.fail(f"asked about {a!r}"))
    assert verdict.equal, verdict.reason


@pytest.mark.parametrize(("answer", "gold"), rows(DIFFERENT, "!="))
def test_close_answer_is_still_wrong(answer, gold):
    verdict = compare(answer, gold, symbolic=lambda a, g: False)
    assert not verdict.equal, verdict.reason


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^{9}}}",
        "10^{10^{10}}",
        "2^{100000000}",
        "10^{-10^{10}}",
        "(10^{10})!",
        "((3!)!)!",
        "\\binom{1000000000}{500000000}",
        "\\log_{10^{10^{9}}} 2",
        "(x+1)^{5000}",
        "\\sum_{k=1}^{1000000000000} \\frac{1}{k}",
        "1" + "+1" * 5_000,
        "\\sqrt{" * 500 + "2" + "}" * 500,
        "(" * 3_000 + ")" * 3_000,
        "\\frac" * 700,
        "9" * 3_900,
        "x^{" * 1_000,
        "\\pm" * 1_000,
        ",".join("\\pm1" for _ in range(900)),
    ],
    ids=lambda text: text[:20],
)
def test_answers_built_to_be_expensive_are_refused_at_once(answer):
    assert not compare(answer, "3", symbolic=lambda a, g: pytest.fail(f"asked about {a[:40]!r}")).equal


def test_a_gold_beyond_the_limits_still_equals_itself():
    assert compare("2^{2^{2^{2^{2}}}}", "2^{2^{2^{2^2}}}").equal
    assert not compare("10^{10^{9}}", "10^{10^{10}}").equal


def test_answer_keys_group_spellings_of_one_answer():
    assert answer_key("0.5") == answer_key("\\frac12") == answer_key(" \\dfrac{1}{2} ")
    assert answer_key("(1, 2)") == answer_key("\\left(1,2\\right)") != answer_key("(2, 1)")
