"""The ground floor: one small model, and the tools that all thirty projects stand on."""
