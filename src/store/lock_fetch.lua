-- Claims a fetch, unless another proxy has.
-- KEYS[1]  namespace:fetch:…  the claim, with a TTL
-- ARGV[1]  the claim to be kept there
-- ARGV[2]  milliseconds until it lapses
-- ARGV[3]  a claim that gives way to it, or ''
-- Returns the claim that does not give way, or ''.
-- What is no claim, or would never lapse, is replaced: no Larder has put it there.
local known = redis.pcall('GETRANGE', KEYS[1], 0, 255)
if type(known) == 'table' and not string.find(known.err, 'WRONGTYPE', 1, true) then
  return known
end
local is_claim = type(known) == 'string' and string.find(known, '^%d+:%d+:[%w%p]+$')
if is_claim and known ~= ARGV[3] then
  local left = redis.call('PTTL', KEYS[1])
  if left >= 0 and left <= 3600000 then
    return known
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ''
