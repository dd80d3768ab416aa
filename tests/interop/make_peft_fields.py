"""Makes tests/golden/peft_fields.json: every field of PEFT's LoraConfig with the value that a configuration without it is saved with. For developers (peft 0.21.2)."""

import dataclasses
import json
import pathlib

import peft

saved = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]).to_dict()
saved |= {"target_modules": ["q_proj"], "peft_type": "LORA", "peft_version": "0.21.2"}
fields = sorted({field.name for field in dataclasses.fields(peft.LoraConfig)} | set(saved))
path = pathlib.Path(__file__).parent.parent / "golden" / "peft_fields.json"
path.write_text(json.dumps({name: saved.get(name) for name in fields}, indent=1) + "\n")
