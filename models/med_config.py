"""`med_config.json` -> the checked sizes of the caption decoder."""

import dataclasses

from utils.files import read_json


@dataclasses.dataclass(frozen=True)
class TextDecoderConfig:
    """Sizes of the decoder, from the keys of a `med_config.json` that matter to it; defaults are BERT's."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    pad_token_id: int = 0
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02

    @classmethod
    def from_json(cls, path):
        """Read a `med_config.json`.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not JSON, a key is missing, or a value asks for what the decoder does not do.
        """
        values = read_json(path, "med_config")
        if not isinstance(values, dict):
            raise ValueError(f"{path}: med_config: found {type(values).__name__}, expected an object")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        missing = [name for name, f in fields.items() if f.default is dataclasses.MISSING and name not in values]
        if missing:
            raise ValueError(f"{path}: med_config: missing {', '.join(missing)}")
        values = {name: value for name, value in values.items() if name in fields or name == "hidden_act"}
        if values.get("hidden_act", "gelu") != "gelu":
            raise ValueError(f"{path}: hidden_act: found {values['hidden_act']!r}, expected 'gelu'")
        values.pop("hidden_act", None)
        for name, value in values.items():
            least = 0 if name == "pad_token_id" or fields[name].type is float else 1
            most = 1 if fields[name].type is float else 2**24
            kinds, words = ((int, float), "a number") if fields[name].type is float else (int, "a whole number")
            if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
                raise ValueError(f"{path}: {name}: found {repr(value)[:60]}, expected {words} from {least} to {most}")
        if values["num_attention_heads"] < 1 or values["hidden_size"] % values["num_attention_heads"]:
            raise ValueError(
                f"{path}: hidden_size: found {values['hidden_size']}, "
                f"expected a multiple of num_attention_heads ({values['num_attention_heads']})"
            )
        config = cls(**values)
        if config.pad_token_id >= config.vocab_size:
            raise ValueError(f"{path}: pad_token_id: found {config.pad_token_id}, expected less than vocab_size")
        return config
