"""Half the bits carry the work; a scale and an FP32 master copy carry what the bits would lose."""
