-- Takes or renews the lease of the sweeper.
-- KEYS[1]  {namespace}:sweeper  the proxy that sweeps, with a TTL
-- ARGV[1]  the proxy that asks
-- ARGV[2]  milliseconds
-- Returns 1 if it holds the lease, 0 if another one does.
-- What is of another type, or would never lapse, is replaced: no Larder has put it there.
local holder = redis.pcall('GETRANGE', KEYS[1], 0, 255)
if type(holder) == 'table' and not string.find(holder.err, 'WRONGTYPE', 1, true) then
  return holder
end
if type(holder) == 'string' and holder ~= '' and holder ~= ARGV[1] then
  local left = redis.call('PTTL', KEYS[1])
  if left >= 0 and left <= math.max(3600000, 2 * tonumber(ARGV[2])) then
    return 0
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
