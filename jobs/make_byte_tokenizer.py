#!/usr/bin/env python3
"""Writes a tokenizer that needs no training: each byte is a token, and number 256 ends a text.

usage: make_byte_tokenizer.py DIRECTORY     (vocab.json, merges.txt and tokenizer_config.json, for `mpilora import --tokenizer DIRECTORY`)
"""

import json
import os
import sys

END = "<|endoftext|>"


def byte_names():
    """GPT-2's printable name of each byte: its own character where that is visible, else one of those from U+0100 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


def main():
    directory = sys.argv[1]
    os.makedirs(directory, exist_ok=True)
    names = byte_names()
    vocabulary = {names[byte]: byte for byte in range(256)} | {END: 256}
    files = {"vocab.json": json.dumps(vocabulary), "merges.txt": "#version: 0.2\n", "tokenizer_config.json": json.dumps({"eos_token": END})}
    for name, text in files.items():
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            file.write(text)


main()
