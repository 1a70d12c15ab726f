"""Memory of training by model, computed: ``python docs/memory.py`` prints the table of memory.md. A test compares."""

from __future__ import annotations

from dataclasses import dataclass

GB = 1e9
# What the rows assume: the micro-batches of recipe/lora.yaml, prompts of a thousand tokens, answers of 128.
RANK, PROMPT, ANSWER = 16, 1000, 128
SFT_PROMPTS, SFT_ANSWER = 2, 16  # sft.micro_batch_size, tokens of an answer to learn
ROWS, PROMPTS = 4, 1  # grpo.micro_batch_size completions of so many prompts
DRAWN, DRAWN_PROMPTS = 32, 4  # completions in the cache of a rollout: B * G
SIZES = (12, 16, 24, 40, 48, 80)  # GB of common GPUs
ROOM = 0.9  # share of a GPU that the sum may take: the rest is the context of CUDA, fragments and kernels' workspace


@dataclass(frozen=True)
class Shape:
    """The published shape of a model."""

    name: str
    layers: int
    hidden: int
    queries: int  # heads times their size
    keys: int  # key-value heads times their size
    feed_forward: int
    vocabulary: int
    tied: bool = True  # whether embedding and head share weights

    @property
    def linear(self) -> int:
        """Weights of the linear layers that carry adapters."""
        attention = 2 * self.hidden * self.queries + 2 * self.hidden * self.keys
        return self.layers * (attention + 3 * self.hidden * self.feed_forward)

    @property
    def weights(self) -> int:
        """All weights; norms and biases, which are below a thousandth, are left out."""
        return self.linear + self.vocabulary * self.hidden * (1 if self.tied else 2)

    def adapter(self, rank: int = RANK) -> int:
        """Weights of one adapter on all linear layers."""
        h, q, k, f = self.hidden, self.queries, self.keys, self.feed_forward
        return self.layers * rank * (2 * (h + q) + 2 * (h + k) + 3 * (h + f))

    def kept(self, half: bool) -> int:
        """Bytes that autograd keeps of one token in a whole pass.

        Args:
            half: whether weights are in bfloat16. Norms compute in float32 all the same, and adapters keep their inputs;
                in float32 the engine adds adapters to a copy of the weights, which counts apart.
        """
        norms = 6 * self.hidden
        others = 2 * self.queries + 2 * self.keys + 4 * self.feed_forward
        adapters = 5 * self.hidden + self.queries + self.feed_forward
        return self.layers * (4 * norms + (2 * (others + adapters) if half else 4 * others))


SHAPES = (
    Shape("SmolLM2-135M", 30, 576, 576, 192, 1536, 49152),
    Shape("Qwen2.5-0.5B", 24, 896, 896, 128, 4864, 151936),
    Shape("Qwen3-0.6B", 28, 1024, 2048, 1024, 3072, 151936),
    Shape("Llama-3.2-1B", 16, 2048, 2048, 512, 8192, 128256),
    Shape("Qwen2.5-1.5B", 28, 1536, 1536, 256, 8960, 151936),
    Shape("Qwen3-1.7B", 28, 2048, 2048, 1024, 6144, 151936),
    Shape("Llama-3.2-3B", 28, 3072, 3072, 1024, 8192, 128256),
    Shape("Qwen3-4B", 36, 2560, 4096, 1024, 9728, 151936),
    Shape("Qwen2.5-7B", 28, 3584, 3584, 512, 18944, 152064, tied=False),
    Shape("Qwen3-8B", 36, 4096, 4096, 1024, 12288, 151936, tied=False),
)


@dataclass(frozen=True)
class Need:
    """Bytes of a GRPO or SFT step in bfloat16 with LoRA, by what they are for."""

    weights: float
    adapters: float
    activations: float
    cache: float
    logits: float

    @property
    def total(self) -> float:
        """Cache and activations are never there at once; all the rest is."""
        return self.weights + self.adapters + self.logits + max(self.cache, self.activations)


def need(shape: Shape, checkpointing: bool) -> Need:
    """What the larger of a GRPO step and an SFT step takes, free answers of `ANSWER` tokens drawn."""
    tokens = max(SFT_PROMPTS * (PROMPT + SFT_ANSWER), PROMPTS * PROMPT + ROWS * ANSWER)
    kept = shape.kept(half=True) * tokens
    inputs = 2 * shape.layers * shape.hidden * tokens
    return Need(
        weights=2 * shape.weights,
        # SFT's adapter and GRPO's, in float32; of the one that learns also gradients and AdamW's two moments.
        adapters=4 * shape.adapter() * (2 + 3),
        activations=inputs + kept / shape.layers if checkpointing else kept,
        cache=2 * 2 * shape.layers * shape.keys * (DRAWN_PROMPTS * PROMPT + DRAWN * ANSWER),
        # In the vocabulary's width: the logits in bfloat16 and float32, their gradients in float32 and bfloat16.
        logits=12 * shape.vocabulary * ROWS * ANSWER,
    )


def smallest(total: float) -> str:
    """The smallest common GPU with room for so many bytes."""
    fitting = [size for size in SIZES if total <= ROOM * size * GB]
    return str(fitting[0]) if fitting else "more"


def rows() -> list[str]:
    """The table in Markdown."""
    lines = [
        "| model | weights, GB | adapters | cache of a rollout | logits | activations, whole | sum | GPU, GB "
        "| activations, checkpointed | sum | GPU, GB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for shape in SHAPES:
        whole, less = need(shape, False), need(shape, True)
        cells = [
            *(f"{part / GB:.1f}" for part in (whole.weights, whole.adapters, whole.cache, whole.logits)),
            f"{whole.activations / GB:.1f}",
            f"**{whole.total / GB:.1f}**",
            smallest(whole.total),
            f"{less.activations / GB:.1f}",
            f"**{less.total / GB:.1f}**",
            smallest(less.total),
        ]
        lines.append(f"| {shape.name} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    print("\n".join(rows()))
