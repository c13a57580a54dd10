-- Releases a fleet lock unless another has replaced it, and publishes the end of its fetch.
-- KEYS[1]  namespace:…:lock  the lock
-- ARGV[1]  the lock to release
-- ARGV[2]  the channel
-- ARGV[3]  the message
if redis.pcall('GETRANGE', KEYS[1], 0, 255) == ARGV[1] then
  redis.call('UNLINK', KEYS[1])
end
redis.call('PUBLISH', ARGV[2], ARGV[3])
