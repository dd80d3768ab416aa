"""Rows of tokens that train beside LoRA (PEFT's trainable_token_indices), laid over PEFT's: the checks of test_variants.py for the cases of reference_variants.py
whose names begin with "tokens"."""

import test_variants

test_variants.main(("tokens",))
