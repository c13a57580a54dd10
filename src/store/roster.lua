-- Who is in the fleet, and what it has to do. Changes nothing but a birth that lies in the future, and leaves out what no Larder
-- has written.
-- Returns epoch and last sequence issued ('' where there is none), the state of the epoch, all members, intents, how
-- many of those are due (at most a thousand).
local meta = redis.call('HMGET', META, 'epoch', 'seq')
local intents = math.max(redis.call('ZCARD', INTENTS) - 1, 0)
local due = #redis.call('ZRANGEBYSCORE', INTENTS, '-inf', text(now()), 'LIMIT', 0, 1000)
return { epoch(meta[1]) or '', text(sequence(meta[2]) or 0), state(), (members()), intents, due }
