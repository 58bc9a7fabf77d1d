"""Chaos: a whole pipeline under load while its processes are killed, judged by its senders, its EHRs and its books.

`plan` and `load` say beforehand what will happen, from a seed; `sender`, `killer` and `clinician` do it; `evidence`
gathers what the broker and the EHRs hold afterwards; `checks` judges that, and `report` tells it.
"""
