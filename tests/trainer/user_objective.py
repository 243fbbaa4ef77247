"""An objective as a user would write it; see objective.path."""


def cubic(log_probs, *, strength=1.0):
    return -((3 * log_probs).detach().exp() + strength) * log_probs
