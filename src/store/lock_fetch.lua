-- Takes the fleet lock of a fetch, unless another proxy holds it.
-- KEYS[1]  namespace:…:lock  the lock, with a TTL
-- ARGV[1]  the new lock
-- ARGV[2]  milliseconds until it expires
-- ARGV[3]  a lock that it may replace, or ''
-- Returns the lock of another proxy that still holds, or ''.
-- A value that is not a lock, or one that would not expire, is replaced: no Larder wrote it.
local known = redis.pcall('GETRANGE', KEYS[1], 0, 255)
if type(known) == 'table' and not string.find(known.err, 'WRONGTYPE', 1, true) then
  return known
end
local is_lock = type(known) == 'string' and string.find(known, '^%d+:%d+:[%w%p]+$')
if is_lock and known ~= ARGV[3] then
  local left = redis.call('PTTL', KEYS[1])
  if left >= 0 and left <= 3600000 then
    return known
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ''
