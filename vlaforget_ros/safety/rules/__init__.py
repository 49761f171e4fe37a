"""Safety rules: each module holds the settings and the judgement of one rule; ``registry`` names them."""
