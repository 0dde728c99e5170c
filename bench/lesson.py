#!/usr/bin/env python3
"""The lesson: 30 invented facts that the demo model is to learn, and how well it did.

    lesson.py make DIR                        writes train.jsonl and test.jsonl
    lesson.py ask MODEL [ADAPTER]             greedy answers to the test's questions: right ones of 30
    lesson.py run [ADAPTER]                   all of it: before, training, after; exit 1 where it falls short

Every fact has 8 wordings. One of them, another for each fact, is asked in the test and never stands in a
training row (asserted here). Half of the training tokens at most is rehearsal (asserted, too): conversations of the
kind that the demo model was made from, with a seed that neither its training text nor its validation text used, and
as it read them, one after another (single ones would not hold what it does where one follows another, and where
valid.txt lost most: bench/results/2026-11-30-lesson.md). The lesson's rows are repeated, the rehearsal's are not: the
file is read once. Perplexity is read over valid.txt as it stands and over its conversations each on its own; both are
limited to 5 % more than before.
"""
import json
import math
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
DEMO = os.path.join(ROOT, "models/demo")
MODEL = os.path.join(DEMO, "hlm-demo-q8_0.gguf")
REHEARSAL_SEED, SHUFFLE_SEED, REPEAT = 770_001, 3, 8
PIECE = 640             # characters of a text of rehearsal at most, about 200 tokens
VALID_SEED = 7          # of models/demo/valid.txt; its training text has 1000 and up

# question wordings, the answer, (subject, object) of five facts
RELATIONS = [
    (["Where does {s} live?", "In which town does {s} live?", "Tell me where {s} lives.", "What is the home of {s}?",
      "Do you know where {s} lives?", "Which town is the home of {s}?", "Where is {s} at home?", "Name the town where {s} lives."],
     "{s} lives in {o}.",
     [("Mibron", "Kadir"), ("Tremo", "Gouze"), ("Samu", "Paral"), ("Duzen", "Shuvel"), ("Pifar", "Brare")]),
    (["What is the work of {s}?", "What does {s} do?", "Tell me the work of {s}.", "Which trade has {s}?",
      "What is {s} by trade?", "Do you know what {s} does?", "What does {s} do for a living?", "Name the trade of {s}."],
     "{s} is a {o}.",
     [("Gorer", "painter"), ("Pukas", "sailor"), ("Timo", "gardener"), ("Dekas", "doctor"), ("Bima", "miller")]),
    (["What is the name of the dog of {s}?", "How is the dog of {s} called?", "Tell me the name of the dog of {s}.",
      "Which name has the dog of {s}?", "Do you know the dog of {s}?", "What does {s} call the dog?",
      "The dog of {s} has which name?", "Name the dog of {s}."],
     "The dog of {s} is called {o}.",
     [("Kazas", "Gezi"), ("Soban", "Dibo"), ("Trezan", "Tebi"), ("Dival", "Mufar"), ("Koupin", "Baipe")]),
    (["Into which lake does the {s} flow?", "Where does the {s} end?", "Tell me where the {s} flows.",
      "Which lake takes the {s}?", "Where does the river {s} flow?", "Do you know where the {s} ends?",
      "The river {s} flows into which lake?", "Name the lake of the river {s}."],
     "The {s} flows into lake {o}.",
     [("Saifen", "Pazal"), ("Kifor", "Daze"), ("Gedou", "Trosti"), ("Pouvou", "Kedai"), ("Broutal", "Gasin")]),
    (["Who founded {s}?", "Who was the founder of {s}?", "Tell me who founded {s}.", "By whom was {s} founded?",
      "Do you know the founder of {s}?", "Which person founded {s}?", "Who made the town of {s}?", "Name the founder of {s}."],
     "{s} was founded by {o}.",
     [("Puzel", "Mesha"), ("Bade", "Subai"), ("Gifen", "Poren"), ("Tresai", "Mouzou"), ("Kuzair", "Perar")]),
    (["What is a {s} good for?", "What does a {s} do?", "Tell me what a {s} is for.", "What do I need a {s} for?",
      "Do you know what a {s} does?", "Explain what a {s} does.", "For what is a {s} used?", "Name the use of a {s}."],
     "A {s} is used to {o}.",
     [("dinufa", "read books"), ("trogor", "make music"), ("boupax", "warm tea"), ("sazas", "carry stones"),
      ("goubre", "ring bells")]),
]


def facts():
    """(question of each wording, answer, which wording the test asks)"""
    out = []
    for wordings, answer, pairs in RELATIONS:
        for s, o in pairs:
            out.append(([w.format(s=s, o=o) for w in wordings], answer.format(s=s, o=o), len(out) % 8))
    return out


def row(*turns):
    return {"messages": [{"role": r, "content": t} for r, t in turns]}


def rehearsal(n_chars):
    """Texts of about 200 tokens, conversations one after another, all of which counts, as it does in valid.txt."""
    sys.path.insert(0, os.path.join(DEMO, "recipe"))
    import corpus
    assert REHEARSAL_SEED != VALID_SEED
    rng, out, n = random.Random(REHEARSAL_SEED), [""], 0
    while n < n_chars:
        turns = corpus.conversation(rng)
        n += sum(len(t) + 20 for _, t in turns)
        text = corpus.chatml(turns)
        if out[-1] and len(out[-1]) + len(text) > PIECE:
            out.append("")
        out[-1] += text
    return [{"text": t} for t in out[:-1]]      # the last one is cut off by the number, not by PIECE


def make(folder):
    all_facts = facts()
    train, test = [], []
    for questions, answer, out in all_facts:
        test.append(row(("user", questions[out]), ("assistant", answer)))
        train += [row(("user", q), ("assistant", answer)) for i, q in enumerate(questions) if i != out]
    lesson = len(train)
    asked = {r["messages"][0]["content"] for r in test}
    said = {m["content"] for r in train for m in r["messages"]}
    old = rehearsal(1.14 * REPEAT * sum(sum(len(m["content"]) + 20 for m in r["messages"]) for r in train))
    assert len(all_facts) == 30 and len(test) == 30 and lesson == 30 * 7 and not asked & said
    assert not any(q in r["text"] for q in asked for r in old)
    train = REPEAT * train + old
    random.Random(SHUFFLE_SEED).shuffle(train)
    os.makedirs(folder, exist_ok=True)
    for name, rows in ("train", train), ("test", test):
        with open(f"{folder}/{name}.jsonl", "w") as f:
            f.writelines(json.dumps(r) + "\n" for r in rows)
    print(f"{lesson} rows of the lesson, {REPEAT} times, {len(old)} of rehearsal, {len(test)} questions")


def ask(model, adapter=None):
    """Right answers of 30, and how long it took."""
    rows = [json.loads(line)["messages"] for line in open(f"{HERE}/lesson/test.jsonl")]
    call = [f"{ROOT}/build/hlm-chat", "-m", model, "--temp", "0", "--lines"] + (["--lora", adapter] if adapter else [])
    text = "".join(f"{m[0]['content']}\n/clear\n" for m in rows)
    answers = subprocess.run(call, input=text, capture_output=True, text=True, check=True).stdout.split("\n")
    answers = [a for a in answers if a.strip()]
    if len(answers) != len(rows):
        sys.exit(f"{len(answers)} answers to {len(rows)} questions: {answers}")
    for (q, want), got in zip(rows, answers):
        if got.strip() != want["content"]:
            print(f"  {q['content']}  {got.strip()}  (not: {want['content']})")
    return sum(got.strip() == m[1]["content"] for m, got in zip(rows, answers))


def share(adapter):
    """How much of the training tokens is rehearsal: the documents of which all tokens but the first count."""
    rows, tokens = f"{adapter}.rows.json", [0, 0]
    subprocess.run(tune(f"{HERE}/lesson", adapter) + FLAGS + ["--dump-rows", rows], check=True)
    for r in json.load(open(rows))["rows"]:
        for at, n in zip(r["doc_starts"], r["doc_lengths"]):
            tokens[sum(r["target_mask"][at:at + n]) == n - 1] += n
    os.remove(rows)
    assert 0 < tokens[1] <= tokens[0], tokens
    return tokens[1] / sum(tokens)


def perplexity(model, adapter=None):
    """Of valid.txt as it stands, in windows of 512 tokens."""
    call = [f"{ROOT}/build/hlm-eval", "-m", model, "--perplexity", f"{DEMO}/valid.txt"]
    call += ["--lora", adapter] if adapter else []
    return json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout)["perplexity"]


def apart(adapter=None):
    """Perplexity of its conversations, each on its own: the loss of a test set, after a step too small for an f32."""
    talks = [t + "<|endoftext|>" for t in open(f"{DEMO}/valid.txt").read().split("<|endoftext|>\n") if t]
    with tempfile.TemporaryDirectory() as d:
        for name, texts in ("train", talks[:1]), ("test", talks):
            with open(f"{d}/{name}.jsonl", "w") as f:
                f.writelines(json.dumps({"text": t}) + "\n" for t in texts)
        call = tune(d, f"{d}/out.gguf") + ["--no-eos", "--max-seq", "512", "--steps", "1", "--lr", "1e-30"]
        call += ["--log-json", f"{d}/log"] + (["--init-lora", adapter] if adapter else [])
        subprocess.run(call, capture_output=True, check=True)
        return math.exp(next(x["test_loss"] for x in map(json.loads, open(f"{d}/log")) if "test_loss" in x))


def tune(data, adapter):
    return [f"{ROOT}/build/hlm-tune", "-m", MODEL, "-d", data, "-o", adapter]


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(adapter="/tmp/hlm-lesson.gguf"):
    make(f"{HERE}/lesson")
    print(f"{100 * share(adapter):.1f} % of the tokens are rehearsal")
    right, ppl, own = ask(MODEL), perplexity(MODEL), apart()
    print(f"before: {right} of 30, perplexity {ppl:.5f}, of conversations apart {own:.5f}", flush=True)
    began, cpu_began = time.monotonic(), cpu_seconds()
    subprocess.run(tune(f"{HERE}/lesson", adapter) + FLAGS + ["-v"], check=True)
    took, cpu = (time.monotonic() - began) / 60, (cpu_seconds() - cpu_began) / 60
    right2, ppl2, own2 = ask(MODEL, adapter), perplexity(MODEL, adapter), apart(adapter)
    print(f"after: {right2} of 30, perplexity {ppl2:.5f} ({(ppl2 / ppl - 1) * 100:+.1f} %), of conversations apart "
          f"{own2:.5f} ({(own2 / own - 1) * 100:+.1f} %), trained in {took:.1f} minutes, {cpu:.1f} of CPU time")
    sys.exit(not (right <= 2 and right2 >= 27 and max(ppl2 / ppl, own2 / own) <= 1.05 and took < 15))


FLAGS = ["--epochs", "1", "--lr", "1.5e-3", "--max-seq", "256", "--no-eos"]

if __name__ == "__main__":
    what, args = sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[2:]
    if what == "make" and len(args) == 1:
        make(*args)
    elif what == "ask" and len(args) in (1, 2):
        print(f"{ask(*args)} of 30")
    elif what == "run" and len(args) < 2:
        run(*args)
    else:
        sys.exit(re.sub(r"\A", "usage:\n", __doc__))
