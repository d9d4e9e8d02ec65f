"""Changes of both losses by one step as a function of λ: measured, and predicted from the two gradients.

A step θ ← θ − η·u along an update that is affine in the weights, u = u_0 + w_task·u_task + w_kd·u_kd, changes a loss
with gradient g by −η<g, u> to first order. With w_task = 1 and w_kd = λ, both losses fall along straight lines in λ,
and their sum L_task + λ·L_kd along a parabola. For SGD, with u = g_task + λ·g_kd, this is the claim of arXiv
2505.06270:

    ΔL_task = −η (a + cλ)        ΔL_kd = −η (c + bλ)        Δ(L_task + λ·L_kd) = −η (a + 2cλ + bλ²)

AdamW's update is u = P·m̂, with P = 1/(√v̂ + ε) (Kingma & Ba 2015, algorithm 1). m̂ is affine in the weights, but v̂
is not, because it contains the square of the step's own gradient: for AdamW a parabola is an approximation even as
η → 0.

Use fp64: the changes by a small step are below the precision of fp32.
"""
