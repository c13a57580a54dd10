-- Lists the members of the fleet and counts the intents. Changes nothing but an epoch start that lies in the future. Leaves
-- out values that no Larder wrote.
-- Returns epoch and last sequence issued ('' where there is none), the state of the epoch, all members, intents, how
-- many of those are due (counted up to a thousand).
local meta = redis.call('HMGET', META, 'epoch', 'seq')
local intents = math.max(redis.call('ZCARD', INTENTS) - 1, 0)
local due = #redis.call('ZRANGEBYSCORE', INTENTS, '-inf', text(now()), 'LIMIT', 0, 1000)
return { epoch(meta[1]) or '', text(sequence(meta[2]) or 0), state(), (members()), intents, due }
