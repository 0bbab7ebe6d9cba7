"""The gate is a bare sigmoid: that is GLU, without the Sw."""


class SwiGLU:
    def forward(self, x):
        return self.w_down(torch.sigmoid(self.w_gate(x)) * self.w_up(x))
