"""How the backbone is trained: the engine that interlaces tasks into one step."""
