-- Takes or renews the lease of the sweeper.
-- KEYS[1]  {namespace}:sweeper  the proxy that sweeps, with a TTL
-- ARGV[1]  the proxy that asks
-- ARGV[2]  milliseconds
-- Returns 1 if it holds the lease, 0 if another one does.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
