"""Check the claims of the papers on every board: seen, not seen, or undecided.

The comments of a preset say what the paper of its method claims about other methods of the suite, one line per claim:

    # Claim: better than magnitude_edge before fine-tuning; without training, of language models (abstract, arXiv ...)
    # Claim: as good as dense after fine-tuning; ... (...)
    # Claim: none; its abstract names no method that is here

It is a comment, since a setting would be part of the keys of records. ``dense`` is the network before the pruning. The
presets of both methods are compared, each with the parts that it has here, over the seeds that they have in common: the
same tests as those of all pairs (:mod:`benchmarks.boards.verdicts`), in a family of their own, with Holm's correction
over the claims of one board and one stage. That a claim is seen says nothing of the paper's own networks and data.
"""
