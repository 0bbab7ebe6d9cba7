"""Keys have loud channels, values loud tokens: scale each along its own axis."""
