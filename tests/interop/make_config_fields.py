"""Makes tests/golden/config_fields.json: the keys that transformers writes into a config.json of each family that mpilora reads. For developers (transformers 5.24.0).

usage: python tests/interop/make_config_fields.py
"""

import json
import pathlib
import re

import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
types = sorted(word for path in (ROOT / "src/model/families").glob("*.c") for word in re.findall(r'model_type = "([\w-]+)"|LLAMA_HF\("(\w+)"', path.read_text())
               for word in word if word)
fields = {word: sorted(transformers.AutoConfig.for_model(word).to_dict()) for word in types}
common = sorted(set.intersection(*map(set, fields.values())))
known = {"every": common} | {word: sorted(set(names) - set(common)) for word, names in fields.items()}
(ROOT / "tests/golden/config_fields.json").write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in known.items()) + "\n}\n")
