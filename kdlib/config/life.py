"""What stands in the tables of a model's life (16_life_cycle): ways, deletions, whose models."""

from kdlib.config.profile import TEACHER

STUDENT = "student"
TRAINED, ORDINARY = "trained on", "trained on, nothing personal"
PREDECESSOR, AFRESH = "taught by predecessor", "distilled anew"
WAYS = (TEACHER, TRAINED, ORDINARY, PREDECESSOR, AFRESH)  # to the next generation
KEPT, RETRAINED = "as it was", "retrained"  # done on a request
UNLEARNED = "unlearned"  # the teacher, from which a student is then distilled
DIRECTLY = "unlearned itself"  # the student
NEVER = -1  # in column came: read by none but who relearns
PERSONAL, INSTEAD = "personal", "ordinary"  # in column arm: records, and rows in their place
