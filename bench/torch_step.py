"""torch_step.py: a LoRA training step in PyTorch beside hlm-tune's, on one CPU. By hand, never in CI.

    python3 bench/torch_step.py ROOT [--models qwen35-tiny,...] [--types f16,q8_0] [--tokens 512] [--rounds 3]
                                [--threads 2] [--inside]

ROOT is a system's root in which python3 has torch and transformers. Models are `hlm-bench make`'s; PyTorch has
the same dimensions with weights of its own in f32, transformers' own torch code (chunked delta rule, Mamba2),
gradients through everything and nothing recomputed, LoRA of rank 16 by hand on what hlm-tune trains without
--target, AdamW. Both take one row of random ids a step. A step that is not counted first, then turns of STEPS
steps each; while one works the other waits. Ratios are made of neighbouring turns, so that other load strikes
both; printed are their median and their range, and the least CPU seconds of a step:
they count no waiting for others, though threads of PyTorch that wait for each other burn some (--threads 1: none).
With --inside, ROOT/tmp/hlm/build is run inside of ROOT (its driver) instead of this build.
"""
import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time

RANK, ALPHA, LR, STEPS = 16, 32.0, 2e-4, 2
ALL = "qwen35-tiny,qwen35moe-tiny,qwen3next-tiny,nemotron_h_moe-tiny,step35-tiny"
FRAME = dict(vocab_size=4096, hidden_size=256, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
             bos_token_id=None, eos_token_id=4095, pad_token_id=0)
LINEAR = dict(num_hidden_layers=4, full_attention_interval=4, linear_conv_kernel_dim=4, linear_key_head_dim=32,
              linear_value_head_dim=32, linear_num_key_heads=2, linear_num_value_heads=4, rms_norm_eps=1e-6)
EXPERTS = dict(num_experts=16, num_experts_per_tok=4, moe_intermediate_size=256,
               shared_expert_intermediate_size=256, tie_word_embeddings=False, norm_topk_prob=True)
ROPE = dict(rope_type="default", rope_theta=1e7, partial_rotary_factor=0.25)
MROPE = dict(ROPE, mrope_section=[3, 3, 2], mrope_interleaved=True)
CONFIG = {
    "qwen35-tiny": dict(FRAME, **LINEAR, model_type="qwen3_5_text", intermediate_size=512,
                        tie_word_embeddings=True, rope_parameters=MROPE),
    "qwen35moe-tiny": dict(FRAME, **LINEAR, **EXPERTS, model_type="qwen3_5_moe_text", rope_parameters=MROPE),
    "qwen3next-tiny": dict(FRAME, **LINEAR, **EXPERTS, model_type="qwen3_next", rope_parameters=ROPE),
    "nemotron_h_moe-tiny": dict(
        FRAME, model_type="nemotron_h", hybrid_override_pattern="MEM*ME", ssm_state_size=64, mamba_num_heads=8,
        mamba_head_dim=64, n_groups=2, conv_kernel=4, use_conv_bias=True, use_mamba_kernels=False,
        mlp_hidden_act="relu2", n_routed_experts=16, num_experts_per_tok=4, moe_intermediate_size=256,
        moe_shared_expert_intermediate_size=256, n_shared_experts=1, routed_scaling_factor=2.5,
        layer_norm_epsilon=1e-5, tie_word_embeddings=False),
}
NOT_ADAPTED = ("lm_head", "shared_expert_gate")


# ---- inside: PyTorch ----------------------------------------------------------------------------


def adapt(model):
    """LoRA on every matrix but routers, gates of shared experts and the head; experts are no Linear."""
    import torch

    class Adapted(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base
            self.a = torch.nn.Parameter(torch.randn(RANK, base.in_features) / base.in_features ** 0.5)
            self.b = torch.nn.Parameter(torch.randn(base.out_features, RANK) * 0.01)

        def forward(self, x):
            return self.base(x) + ALPHA / RANK * (x @ self.a.T @ self.b.T)

    for p in model.parameters():
        p.requires_grad_(False)
    found = [(m, name, child) for m in model.modules() for name, child in m.named_children()
             if isinstance(child, torch.nn.Linear) and name not in NOT_ADAPTED]
    for m, name, child in found:
        setattr(m, name, Adapted(child))
    return [p for p in model.parameters() if p.requires_grad], len(found)


def peak_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def serve(name, n_tok, experts, threads):
    """A step for every line of input: seconds, CPU seconds, loss."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**CONFIG[name]), dtype=torch.float32,
                                             experts_implementation=experts)
    before = peak_bytes()
    n_base = sum(p.numel() for p in model.parameters())
    params, n_matrix = adapt(model.train())
    optimizer = torch.optim.AdamW(params, lr=LR, weight_decay=0)
    ids = torch.randint(0, 4000, (1, n_tok))
    print(json.dumps({"base": n_base, "matrices": n_matrix, "numbers": sum(p.numel() for p in params),
                      "versions": [torch.__version__, __import__("transformers").__version__]}), flush=True)
    for _ in sys.stdin:
        start, cpu = time.monotonic(), time.process_time()
        logits = model(ids, use_cache=False).logits[0]
        loss = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(json.dumps({"s": time.monotonic() - start, "cpu": time.process_time() - cpu, "loss": loss.item(),
                          "peak": peak_bytes(), "before": before}), flush=True)


# ---- outside ------------------------------------------------------------------------------------


class Torch:
    """A process in ROOT that makes steps when asked, and does not spin while it waits."""

    def __init__(self, root, name, n_tok, experts, threads):
        env = [f"OMP_NUM_THREADS={threads}", "OMP_WAIT_POLICY=PASSIVE", "TRANSFORMERS_VERBOSITY=error",
               "TORCHINDUCTOR_CACHE_DIR=/tmp/torch_step"]
        shutil.copy(__file__, f"{root}/tmp/torch_step.py")
        self.p = subprocess.Popen(["chroot", root, "env", *env, "python3", "/tmp/torch_step.py", "--serve", name,
                                   str(n_tok), experts, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True)
        self.info = self.answer()

    def answer(self):
        for line in self.p.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit("torch_step.py: PyTorch ended")

    def step(self):
        self.p.stdin.write("\n")
        self.p.stdin.flush()
        return self.answer()

    def close(self):
        self.p.stdin.close()
        self.p.wait()


def cpu_of(pid):
    """CPU seconds of a process so far, all threads."""
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rows_of(n_tok):
    """A file for --ids-json: one row of one document, everything but its first token counted."""
    rng = random.Random(1)
    row = dict(documents=[0], ids=[rng.randrange(4000) for _ in range(n_tok)], target_mask=[0] + [1] * (n_tok - 1),
               doc_index=[0] * n_tok, positions=list(range(n_tok)), doc_starts=[0], doc_lengths=[n_tok], padding=0)
    options = dict(run="lora", steps=STEPS + 1, shuffle=False, batch_rows=1, accumulation=1, optimizer="adamw",
                   lr=LR, beta1=0.9, beta2=0.999, eps=1e-8, bias_correction=True, weight_decay=0.0,
                   weight_decay_gates=0.0, clip_norm=None, schedule=dict(kind="constant", peak=LR), rank=RANK,
                   alpha=ALPHA, rslora=False, lora_dropout=0.0, train_lora=True, train_gates=False,
                   mtp_factor=None)
    return dict(version=2, case="row", kind="text", packed=False, row_length=None, pad_id=0,
                counted_targets=n_tok - 1, options=options, rows=[row])


class Hlm:
    """hlm-tune, here or in ROOT; files lie in ROOT/tmp/torch_step."""

    def __init__(self, a):
        here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "build")
        self.build, self.files, self.head = here, f"{a.root}/tmp/torch_step.files", []
        os.makedirs(self.files, exist_ok=True)
        self.seen = self.files
        if a.inside:
            self.build, self.seen, self.head = "/tmp/hlm/build", "/tmp/torch_step.files", ["chroot", a.root]
        self.env = dict(os.environ, MESA_SHADER_CACHE_DIR=f"{self.seen}/cache", XDG_CACHE_HOME=f"{self.seen}/cache",
                        LP_NUM_THREADS=str(a.threads))
        self.env.pop("LP_NATIVE_VECTOR_WIDTH", None)
        json.dump(rows_of(a.tokens), open(f"{self.files}/row.json", "w"))

    def command(self, program, *more):
        return [*self.head, f"{self.build}/{program}", *more]

    def make(self, name, kind):
        if not os.path.exists(f"{self.files}/{name}-{kind}.gguf"):
            subprocess.run(self.command("hlm-bench", "make", name, kind, f"{self.seen}/{name}-{kind}.gguf"),
                           check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.env)

    def tune(self, name, kind, *more):
        return self.command("hlm-tune", "-m", f"{self.seen}/{name}-{kind}.gguf", "--ids-json",
                            f"{self.seen}/row.json", *more)

    def plan(self, name, kind):
        out = subprocess.run(self.tune(name, kind, "--plan"), check=True, capture_output=True, text=True,
                             env=self.env).stdout
        return next(int(line.split()[1]) for line in out.splitlines() if line.split()[:1] == ["all"])

    def steps(self, name, kind):
        """A run of STEPS steps after one that does not count: seconds and CPU seconds of each, peak."""
        log = f"{self.files}/log"
        open(log, "w").close()
        more = ["--steps", str(STEPS + 1), "--log-json", f"{self.seen}/log", "-o", f"{self.seen}/out.gguf"]
        p = subprocess.Popen(self.tune(name, kind, *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                             env=self.env)
        cpu, peak, at = [], 0, 0
        while p.poll() is None:
            time.sleep(0.005)
            try:
                now = cpu_of(p.pid)
                for line in open(f"/proc/{p.pid}/status"):
                    peak = max(peak, int(line.split()[1]) * 1024 if line.startswith("VmHWM") else 0)
            except (OSError, IndexError):
                continue
            if os.path.getsize(log) > at:
                at = os.path.getsize(log)
                n = sum('"event":"step"' in line for line in open(log))
                cpu += [now] * (n - len(cpu))
        if p.returncode:
            raise SystemExit(p.stderr.read().decode())
        rows = [json.loads(line) for line in open(log)]
        steps = [r for r in rows if r.get("event") == "step"]
        self.driver = next(r["driver"] for r in rows if r.get("event") == "model")
        each = [cpu[i + 1] - cpu[i] for i in range(min(len(cpu) - 1, STEPS))]
        return [r["step_s"] for r in steps[1:]], each, peak


def median_range(values, digits=2):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def turns(a, hlm, name, kinds, torch):
    """Turn by turn: PyTorch's steps, then hlm's on each file. Lists of (tokens/s, CPU seconds a step, peak)."""
    mine, theirs = {kind: [] for kind in kinds}, []
    for _ in range(a.rounds):
        if torch:
            t = [torch.step() for _ in range(STEPS)]
            theirs.append((a.tokens / statistics.median(x["s"] for x in t),
                           min(x["cpu"] for x in t), t[-1]))
        for kind in kinds:
            s, c, peak = hlm.steps(name, kind)
            mine[kind].append((a.tokens / statistics.median(s), min(c), peak))
    return mine, theirs


def compare(a, hlm, name):
    kinds, median = a.types.split(","), statistics.median
    for kind in kinds:
        hlm.make(name, kind)
        hlm.steps(name, kind)           # kernels are compiled
    torch = Torch(a.root, name, a.tokens, a.experts, a.threads) if name in CONFIG else None
    if torch:
        torch.step()
    mine, theirs = turns(a, hlm, name, kinds, torch)
    for kind in kinds:
        m = mine[kind]
        cells = [name, kind, f"{median(x[0] for x in m):.0f}", "none", "", f"{min(x[1] for x in m):.2f}", "", "",
                 f"{hlm.plan(name, kind) / 2**20:.0f}", f"{max(x[2] for x in m) / 2**20:.0f}", ""]
        if torch:
            last = theirs[-1][2]
            cells[3] = f"{median(x[0] for x in theirs):.0f}"
            cells[4] = median_range([x[0] / y[0] for x, y in zip(m, theirs)])
            cells[6] = f"{min(x[1] for x in theirs):.2f}"
            cells[7] = f"{min(x[1] for x in theirs) / min(x[1] for x in m):.2f}"
            cells[10] = f"{last['peak'] / 2**20:.0f} ({(last['peak'] - last['before']) / 2**20:.0f})"
        print("| " + " | ".join(cells) + " |", flush=True)
    print(f"<!-- {name}: {hlm.driver}, load {os.getloadavg()[0]:.1f}"
          f"{', ' + json.dumps(torch.info) if torch else ''} -->", flush=True)
    if torch:
        torch.close()


def main():
    if sys.argv[1:2] == ["--serve"]:
        return serve(sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
    p = argparse.ArgumentParser()
    p.add_argument("root")
    p.add_argument("--models", default=ALL)
    p.add_argument("--types", default="f16,q8_0")
    p.add_argument("--tokens", type=int, default=512)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--experts", default="eager", help="how transformers runs experts: grouped_mm, eager")
    p.add_argument("--threads", type=int, default=2, help="of either")
    p.add_argument("--inside", action="store_true")
    a = p.parse_args()
    hlm = Hlm(a)
    print("| model | type | hlm, tokens/s | PyTorch | hlm / PyTorch | CPU s a step, hlm | PyTorch | PyTorch / hlm | "
          "plan, MiB | peak of hlm | of PyTorch (over its weights) |\n" + "|---" * 11 + "|", flush=True)
    for name in a.models.split(","):
        compare(a, hlm, name)


main()
