"""What stands in the tables of a model's life (16_life_cycle): ways, deletions, whose models."""

from kdlib.config.profile import TEACHER

STUDENT = "student"
TRAINED, ORDINARY = "trained on", "trained on, nothing personal"
PREDECESSOR, AFRESH = "taught by predecessor", "distilled anew"
WAYS = (TEACHER, TRAINED, ORDINARY, PREDECESSOR, AFRESH)  # to the next generation
KEPT, RETRAINED = "as it was", "retrained"  # done on a request
UNLEARNED = "unlearned"  # the teacher, from which a student is then distilled
DIRECTLY = "unlearned itself"  # the student
UNREAD = "left out"  # the rows, of a new student whose teacher read them
MODELS = {  # after a request, by what was done and who it is; a new student starts from the base
    (KEPT, TEACHER): "teacher as it was",
    (KEPT, STUDENT): "student as it was",
    (UNLEARNED, TEACHER): "teacher that unlearned them",
    (UNLEARNED, STUDENT): "new student of the unlearned teacher",
    (UNREAD, STUDENT): "new student of the teacher as it was",
    (DIRECTLY, STUDENT): "student that unlearned them itself",
    (RETRAINED, TEACHER): "teacher retrained without them",
    (RETRAINED, STUDENT): "new student of the retrained teacher",
}
NEVER = -1  # in column came: read by none but who relearns
PERSONAL, INSTEAD = "personal", "ordinary"  # in column arm: records, and rows in their place
