-- Give a job its one final state, if the caller still holds it.
-- KEYS: job, running, events, queued
-- ARGV: id, fence, status, result as JSON or '', error as JSON or '', ttl s
-- Returns 1 if this call made the state final, 0 if it was too late.
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[2]
  or redis.call('HGET', KEYS[1], 'status') ~= 'running' then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- a full Redis refuses a script whose first write takes memory, so the removals come first
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('HSET', KEYS[1], 'status', ARGV[3], 'finished_ms', now, 'expires_ms', now + ARGV[6] * 1000)
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'result', ARGV[4]) end
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'error', ARGV[5]) end
redis.call('XADD', KEYS[3], '*', 'event', 'done', 'data', cjson.encode({status = ARGV[3]}))
redis.call('EXPIRE', KEYS[1], ARGV[6])
redis.call('EXPIRE', KEYS[3], ARGV[6])
return 1
