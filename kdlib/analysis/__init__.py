"""Tables in, tables out: rates, comparisons, attacks and verdicts, without torch.

What holds in every module: a model is a method and a size, a row a seed and a row id. `tuples` are
the per-row scores of several models and seeds as `rates.collect` gives, with method, size, seed,
row_id, group (rows with the same response), kind (row, canary, twin) and split. A number stands in
value, its 95% interval in lo and hi (over seeds, then groups, see `kdlib.stats`, unless a function
says otherwise; of one seed over groups alone), the rows behind it in n, the different responses
among them in groups; same_sign says whether every seed alone agrees. Shares and rates go from 0 to
1, losses are nats per token.
"""
