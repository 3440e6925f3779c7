-- Bring back what got lost: jobs whose worker is silent, and jobs whose message never arrived.
-- KEYS: queued, running, all
-- ARGV: key prefix of a job, most attempts, resend after ms, ttl s
-- Returns the ids to send to the queue again.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local send = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 100)) do
  local job, events = ARGV[1] .. id, ARGV[1] .. id .. ':events'
  redis.call('ZREM', KEYS[2], id)
  if redis.call('HGET', job, 'status') == 'running' then
    local status, event = 'queued', 'status'
    if redis.call('HEXISTS', job, 'cancel') == 1 then status, event = 'canceled', 'done' end
    if status == 'queued' and tonumber(redis.call('HGET', job, 'attempts')) >= tonumber(ARGV[2]) then
      status, event = 'failed', 'done'
      redis.call('HSET', job, 'error', cjson.encode({type = '/problems/poison', title = 'Poison',
        detail = 'its worker died each time; it is not tried again', retryable = false}))
    end
    redis.call('HSET', job, 'status', status)
    -- whoever held it is fenced off from now on
    redis.call('HINCRBY', job, 'fence', 1)
    redis.call('XADD', events, '*', 'event', event, 'data', cjson.encode({status = status}))
    if status == 'queued' then
      redis.call('ZADD', KEYS[1], now, id)
      table.insert(send, id)
    else
      redis.call('HSET', job, 'finished_ms', now, 'expires_ms', now + ARGV[4] * 1000)
      redis.call('EXPIRE', job, ARGV[4])
      redis.call('EXPIRE', events, ARGV[4])
    end
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[3], 'LIMIT', 0, 100)) do
  if redis.call('EXISTS', ARGV[1] .. id) == 1 then
    redis.call('ZADD', KEYS[1], now, id)
    table.insert(send, id)
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - 30 * 24 * 3600 * 1000)
return send
