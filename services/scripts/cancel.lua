-- Cancel a job: at once while it waits, at its worker's next sign of life while it runs.
-- KEYS: job, queued, events
-- ARGV: id, ttl s
-- Returns the status it has now, or '' if there is no such job.
-- Redis without memory refuses a script at its first write that takes some: begin with another
redis.call('HDEL', KEYS[1], '-')
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return '' end
if status == 'running' then redis.call('HSET', KEYS[1], 'cancel', 1) end
if status ~= 'queued' then return status end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- a full Redis refuses a script whose first write takes memory, so the removal comes first
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[1], 'status', 'canceled', 'finished_ms', now,
  'expires_ms', now + ARGV[2] * 1000)
redis.call('XADD', KEYS[3], '*', 'event', 'done', 'data', cjson.encode({status = 'canceled'}))
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[3], ARGV[2])
return 'canceled'
