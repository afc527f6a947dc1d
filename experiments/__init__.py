"""The harness: trains networks with each freezing policy and compares their accuracy and cost.

It depends on the policy protocol only, not on how a policy works. Specs become runs (`plan`), runs
become run files (`runs`), and run files become tables (`tables`).
"""
