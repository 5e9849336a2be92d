"""The caches that the case `field` measures beside each other.

contenders      which caches, how each is started, at which thresholds
orders          the orders that a cache's process obeys
ours            semcache and langchain_core's InMemoryCache
gptcache_rival  GPTCache, in its own environment
redisvl_rival   RedisVL, in its own environment
report          tables and plot
"""
