import torch

from degrpo.learner.critic import ValueCritic, fit_critic
from degrpo.learner.prompt_encoder import PromptCache
from degrpo.learner.step_metrics import explained_variance


def test_the_critic_starts_at_zero_and_learns_what_its_features_tell():
    torch.manual_seed(0)
    critic = ValueCritic(8)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=1e-2)
    features = torch.randn(64, 8)
    targets = torch.sigmoid(2 * features[:, 0] - features[:, 1])
    assert critic(features).abs().max() == 0
    first = fit_critic(critic, optimizer, features, targets)
    assert first == torch.mean(targets**2)  # V = 0
    for _ in range(150):
        last = fit_critic(critic, optimizer, features, targets)
    assert last < 0.05 * targets.var()


def test_the_critic_never_moves_the_policy():
    features = torch.randn(2, 8, requires_grad=True)
    critic = ValueCritic(8)
    torch.nn.init.ones_(critic.value.weight)
    critic(features).sum().backward()
    assert features.grad is None


def test_explained_variance():
    rewards = [0.0, 1.0, 0.5, 0.5]
    assert explained_variance([(r, r) for r in rewards]) == 1.0
    assert explained_variance([(r, 0.5) for r in rewards]) == 0.0
    assert explained_variance([(r, 1 - r) for r in rewards]) == -3.0
    assert explained_variance([(0.5, 0.1), (0.5, 0.2)]) == 0.0


def test_the_prompt_cache_forgets_the_least_recently_used(make_prompt):
    prompts = [make_prompt(10, visual=2, seed=n) for n in range(3)]  # 80 + 10 + 128 bytes each
    cache = PromptCache(2 * 218)
    cache.put(prompts[0])
    cache.put(prompts[1])
    assert cache.get("sample-0") is prompts[0]
    cache.put(prompts[2])
    assert cache.get("sample-1") is None
    assert cache.get("sample-0") is prompts[0]
    assert cache.num_bytes == 2 * 218
    cache.put(prompts[2])
    assert cache.num_bytes == 2 * 218
