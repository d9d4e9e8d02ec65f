"""Changes of both losses by one step as a function of λ: measured, and predicted from the two gradients.

A step θ ← θ − η·u along an update that is affine in the weights, u = u_0 + w_T·u_T + w_D·u_D, changes a loss with
gradient g by −η<g, u> to first order. With w_T = 1 and w_D = λ, both losses fall along straight lines in λ, and their
sum L_T + λ·L_D along a parabola. For SGD, with u = g_T + λ·g_D, this is the claim of arXiv 2505.06270:

    ΔL_T = −η (a + cλ)        ΔL_D = −η (c + bλ)        Δ(L_T + λ·L_D) = −η (a + 2cλ + bλ²)

AdamW's update is u = P·m̂, with P = 1/(√v̂ + ε) (Kingma & Ba 2015, algorithm 1). m̂ is affine in the weights, but v̂
is not, because it contains the square of the step's own gradient: for AdamW a parabola is an approximation even as
η → 0.

Use fp64: the changes by a small step are below the precision of fp32.
"""
