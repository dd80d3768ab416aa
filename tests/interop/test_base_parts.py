"""Biases and fused modules of the base that train beside LoRA (PEFT's bias and modules_to_save), laid over PEFT's: the checks of test_variants.py for the cases of
reference_variants.py whose names begin with "bias"."""

import test_variants

test_variants.main(("bias",))
