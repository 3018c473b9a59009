"""The benchmark's other side: what a user of torch and transformers would write, as well as is reasonable.

Scaled-dot-product attention, parameters in the dtype that is measured, fused AdamW, no logits beyond those that are
asked for, inference mode wherever no gradient is. Frozen parameters do not require gradients, so autograd stores
nothing below the first trained block. Each model is run whole on the sequences, because transformers gives no cut.

    .torch-venv/bin/python benchmarks/torch_side.py --case sft_frozen --dtype bfloat16 --repeats 3
"""

from collections.abc import Callable, Iterable

import torch
import workloads
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
    tie_word_embeddings=True,
    bos_token_id=None,
    eos_token_id=None,  # every sample runs to its full length
    attn_implementation="sdpa",
)

# PPO's settings. None of them changes how long an iteration takes.
KL_COEFFICIENT = 0.05
DISCOUNT, TRACE = 1.0, 0.95
CLIP = 0.2
VALUE_COEFFICIENT = 0.1


def language_model(dtype: torch.dtype) -> LlamaForCausalLM:
    return LlamaForCausalLM(CONFIG).to(dtype)


def freeze_bottom(model: LlamaForCausalLM) -> None:
    """Leaves the top blocks and the last norm to be trained. The LM head is the embedding matrix."""
    for module in (model.model.embed_tokens, *model.model.layers[: workloads.FROZEN_LAYERS]):
        module.requires_grad_(False)


def adamw(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in parameters if p.requires_grad], lr=1e-5, fused=True)


def random_tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(CONFIG.vocab_size, (rows, length))


def sample(model: LlamaForCausalLM, prompts: torch.Tensor, samples: int, temperature: float) -> torch.Tensor:
    """`[rows * samples, length + NEW_TOKENS]` ids: each prompt with its responses."""
    tokens = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        num_return_sequences=samples,
        max_new_tokens=workloads.NEW_TOKENS,
        do_sample=True,
        temperature=temperature,
        top_k=0,
        pad_token_id=0,
    )
    if tokens.shape[1] != prompts.shape[1] + workloads.NEW_TOKENS:
        raise RuntimeError(f"generate stopped early: {tokens.shape[1] - prompts.shape[1]} new tokens")
    return tokens


def best_of_n(prompt_length: int, dtype: torch.dtype) -> Callable[[], None]:
    model = language_model(dtype)
    prompt = random_tokens(1, prompt_length)

    @torch.inference_mode()
    def step() -> None:
        sample(model, prompt, workloads.BON_SAMPLES, workloads.BON_TEMPERATURE)

    return step


def sft(frozen: bool, dtype: torch.dtype) -> Callable[[], None]:
    model = language_model(dtype)
    if frozen:
        freeze_bottom(model)
    optimizer = adamw(model.parameters())
    tokens = random_tokens(workloads.SFT_BATCH, workloads.SFT_LENGTH)
    targets = tokens[:, -workloads.SFT_RESPONSE :] if frozen else tokens[:, 1:]

    def step() -> None:
        # The last token predicts nothing. Attention over it is kept so that a step reads all the tokens it counts.
        logits = model(tokens, use_cache=False, logits_to_keep=targets.shape[1] + 1).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def advantages_and_returns(rewards: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (Schulman et al., 2016) over `[B, R]`, the advantages whitened."""
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    delta = rewards + DISCOUNT * following - values
    advantage, trace = torch.zeros_like(delta), torch.zeros_like(delta[:, 0])
    for index in reversed(range(delta.shape[1])):
        trace = delta[:, index] + DISCOUNT * TRACE * trace
        advantage[:, index] = trace
    returns = advantage + values
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8), returns


def ppo(dtype: torch.dtype) -> Callable[[], None]:
    policy, reference, reward_model = (language_model(dtype) for _ in range(3))
    value_head, reward_head = (torch.nn.Linear(CONFIG.hidden_size, 1, dtype=dtype) for _ in range(2))
    freeze_bottom(policy)
    optimizer = adamw([*policy.parameters(), *value_head.parameters()])
    prompts = random_tokens(workloads.PPO_PROMPTS, workloads.PPO_PROMPT_LENGTH)

    def response_states(model: LlamaForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
        """`[B, R, D]`: the states that predict the response."""
        hidden = model.model(tokens[:, :-1], use_cache=False).last_hidden_state
        return hidden[:, workloads.PPO_PROMPT_LENGTH - 1 :]

    def log_probs(model: LlamaForCausalLM, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """`[B, R]` float32."""
        response = tokens[:, workloads.PPO_PROMPT_LENGTH :]
        logits = model.lm_head(states).flatten(0, 1).float()
        return -functional.cross_entropy(logits, response.flatten(), reduction="none").view(response.shape)

    def rollout() -> tuple[torch.Tensor, ...]:
        """Token ids `[B, P + R]`, and old log-probs, old values, advantages and returns, each `[B, R]` float32."""
        with torch.inference_mode():
            tokens = sample(policy, prompts, samples=1, temperature=1.0)
            scores = reward_head(reward_model.model(tokens, use_cache=False).last_hidden_state[:, -1])[:, 0].float()
            states = response_states(policy, tokens)
            old = log_probs(policy, states, tokens)
            values = value_head(states)[..., 0].float()
            rewards = -KL_COEFFICIENT * (old - log_probs(reference, response_states(reference, tokens), tokens))
            rewards[:, -1] += scores
            advantages, returns = advantages_and_returns(rewards, values)
        # Clones made here are ordinary tensors, which autograd may save.
        return tuple(tensor.clone() for tensor in (tokens, old, values, advantages, returns))

    def step() -> None:
        tokens, old, old_values, advantages, returns = rollout()
        for _ in range(workloads.PPO_EPOCHS):
            states = response_states(policy, tokens)
            ratio = torch.exp(log_probs(policy, states, tokens) - old)
            policy_loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages).mean()
            values = value_head(states)[..., 0].float()
            clipped = old_values + (values - old_values).clamp(-CLIP, CLIP)
            value_loss = 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2).mean()
            (policy_loss + VALUE_COEFFICIENT * value_loss).backward()
            optimizer.step()
            optimizer.zero_grad()

    return step


def make_step(case: str, dtype: str) -> Callable[[], None]:
    torch.manual_seed(0)
    torch.set_num_threads(workloads.THREADS)
    makers: dict[str, Callable[[torch.dtype], Callable[[], None]]] = {
        "bon_128": lambda dtype: best_of_n(128, dtype),
        "bon_512": lambda dtype: best_of_n(512, dtype),
        "sft_frozen": lambda dtype: sft(True, dtype),
        "sft_full": lambda dtype: sft(False, dtype),
        "ppo": ppo,
    }
    return makers[case](getattr(torch, dtype))


if __name__ == "__main__":
    workloads.main(make_step, packages=("torch", "transformers"))
