"""oneDNN's products instead of torch's own, where they are the faster ones."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from loaders.onednn import LONG, _attend, available, use_onednn  # noqa: E402

pytestmark = pytest.mark.skipif(not available(), reason="this torch or CPU has no use for oneDNN")


def model(dtype: object = torch.float32) -> torch.nn.Module:
    """An embedding tied to the last layer, a patch, and layers with and without a bias."""
    torch.manual_seed(0)
    parts = torch.nn.ModuleDict(
        {
            "patch": torch.nn.Conv3d(3, 48, (2, 14, 14), stride=(2, 14, 14)),
            "words": torch.nn.Embedding(100, 48),
            "up": torch.nn.Linear(48, 96, bias=False),
            "down": torch.nn.Linear(96, 48),
            "head": torch.nn.Linear(48, 100, bias=False),
        }
    )
    parts["head"].weight = parts["words"].weight
    return parts.to(dtype).requires_grad_(False)


def answer(parts: torch.nn.Module, rows: int) -> torch.Tensor:
    dtype = parts["up"].weight.dtype  # type: ignore[index]
    pixels = torch.randn(rows, 3, 2, 14, 14, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        x = parts["patch"](pixels.to(dtype)).view(rows, -1) + parts["words"](torch.arange(rows))  # type: ignore[index]
        return parts["head"](parts["down"](parts["up"](x).relu()))  # type: ignore[index]


@pytest.mark.parametrize("rows", [1, 8, 90])
def test_the_products_are_the_same(rows: int) -> None:
    plain, fast = model(), model()
    use_onednn(fast)
    expected = answer(plain, rows)
    for _ in range(2):  # the first packs
        assert torch.allclose(answer(fast, rows), expected, rtol=1e-4, atol=1e-5)


def test_a_weight_is_kept_once_unless_it_is_shared() -> None:
    parts = model()
    use_onednn(parts)
    before = sum(p.nbytes for p in parts.parameters())
    answer(parts, 2)
    assert sum(p.nbytes for p in parts.parameters()) == before
    assert parts["up"].weight is not None  # type: ignore[index]
    assert parts["up"].weight.layout is torch._mkldnn  # type: ignore[index, attr-defined]
    assert parts["head"].weight is parts["words"].weight  # type: ignore[index]
    assert parts["words"].weight.layout is torch.strided  # type: ignore[index]


def test_other_precisions_and_kinds_are_left_alone() -> None:
    class Other(torch.nn.Linear):  # type: ignore[misc]
        """As quantized layers are."""

    narrow, other = model(torch.bfloat16), torch.nn.ModuleList([Other(8, 8)])
    for parts in (narrow, other):
        before = [type(module) for module in parts.modules()]
        use_onednn(parts)
        assert [type(module) for module in parts.modules()] == before


@pytest.mark.parametrize("patches", [LONG - 1, LONG + 100])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_over_an_image_is_the_same(patches: int, causal: bool) -> None:
    module = torch.nn.Module()
    module.is_causal = causal
    several = torch.randn(3, 2, 4, patches, 32, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.scaled_dot_product_attention(
        *several, is_causal=causal, scale=0.3
    )
    with torch.inference_mode():
        seen, _ = _attend(module, *several, None, scaling=0.3)
    assert torch.allclose(seen, expected.transpose(1, 2), rtol=1e-4, atol=1e-5)


def test_a_mask_is_kept_to() -> None:
    module = torch.nn.Module()
    module.is_causal = False
    several = torch.randn(3, 1, 2, LONG, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 1, LONG, LONG, dtype=torch.bool).tril()
    expected = torch.nn.functional.scaled_dot_product_attention(*several, attn_mask=mask)
    seen, _ = _attend(module, *several, mask)
    assert torch.allclose(seen, expected.transpose(1, 2), rtol=1e-4, atol=1e-5)
