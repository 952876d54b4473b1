"""For tests of plug-ins: the contracts that the product's own fulfil, and fixtures.

    from proxy.testing.balancers import FairBalancerContract


    class TestWarmest(FairBalancerContract):
        balancer = Warmest

Needs the extra `testing`. Nothing of the product imports it.
"""
