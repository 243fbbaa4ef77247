"""Score a model on math benchmarks: ``python -m verl.math_eval``. What users need to know is in docs/evaluation.md.

Read in this order:

harness         one evaluation from a model to a report; all checkpoints of a folder
options         what can be asked, and what is wrong with it before a model is loaded
benchmark_list  the benchmarks: one entry each; benchmarks and rows turn their files into problems
prompting       which prompt a model is asked with; few_shot puts examples in front
generation      requests, completions, and how one of the backends/ is made
benchmark_run   one benchmark: draw what is missing, grade it, store it
samples         the files of a run; merging and regrading work on them
grading/        is this answer right?
metrics         scores, voting, repetition: from graded samples to metrics.json (evaluation)
report          tables, charts, page: from metrics to what people look at
compare         two runs against each other; paired is its statistics
"""
