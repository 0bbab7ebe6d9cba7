"""The core broken on purpose, in the eight ways that project tests alone would miss: each turns tests red."""

from pathlib import Path

from common.proofs import prove_wrong

HERE = Path(__file__).parent
MISTAKES = (
    "rope_pairs_neighbours", "mask_one_ahead", "norm_after_the_branch", "mask_forgets_the_cache",
    "rope_restarts_under_a_cache", "cache_keeps_the_last_chunk", "block_drops_the_mask", "swap_does_nothing",
)  # fmt: skip
TESTS = (  # of those that pass on the reference, as many as it takes, so that the proofs are soon done
    "test_rope_turns_complex_numbers", "test_block_norms_inside_its_branches", "test_attend", "test_cache",
    "test_cached_equals_uncached", "test_mask_and_positions_pack_documents",
    "test_swap_keeps_the_training_flag", "test_swap_replaces_and_changes_the_answer",
)  # fmt: skip


def test_wrong_solutions_are_caught():
    wrongs = [HERE / f"wrong_{name}.py" for name in MISTAKES]
    tests = [f"common/tests/test_model.py::{name}" for name in TESTS]
    prove_wrong("common/model.py", wrongs, tests, HERE.parents[1])
