-- Takes or renews the lease of the sweeper, or that of the proxy that warms.
-- KEYS[1]  {namespace}:sweeper or {namespace}:warmer  the proxy that holds it, with a TTL
-- ARGV[1]  the calling proxy
-- ARGV[2]  duration of the lease, milliseconds
-- Returns 1 if the proxy holds the lease, 0 if another one does.
-- A value of another type, or one that would not expire, is replaced: no Larder wrote it.
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
