"""What the tests of all projects stand on: a model folder that is like the chain's."""

from common import hub, tokenizer
from common.generate import Sampling, generate
from common.trial import model_folder


def test_the_model_folder_is_like_the_chains(tmp_path):
    model_folder(tmp_path / "m", n_layer=1)
    model, words = hub.load(tmp_path / "m").eval(), tokenizer.load(tmp_path / "m")
    assert words.vocab_size == model.config.vocab_size == 260 and model.config.n_layer == 1
    assert words.encode("héllo\0") == list("héllo\0".encode())
    assert words.decode(words.encode("héllo")) == "héllo"
    assert words.special == {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258, "<|pad|>": 259}
    ids = words.chat_ids([{"role": "user", "content": "hi"}], add_generation_prompt=True)
    assert words.decode(ids) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert len(generate(model, [ids], Sampling(max_tokens=3, ignore_eos=True), tokenizer=words)[0].ids) == 3


def test_equal_sizes_give_equal_weights(tmp_path):
    one, two = (hub.load(model_folder(tmp_path / name)) for name in ("one", "two"))
    assert all(a.equal(b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
